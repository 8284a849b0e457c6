C     Cross section of e+ e- -> mu+ mu- near the Z resonance, as a matrix
C     element of thirty years ago: FORTRAN 77, parameters in COMMON.
C     Both beams lose energy to photons before they meet.
C
C     Build: gfortran -O2 -shared -fPIC -o libme.so matrix_element.f
C
C     FXN is declared as Lepage's VEGAS wants it: the integrand at X(1),
C     X(2): energies of the beams, mapped; X(3): polar angle, mapped;
C     the integral over the unit cube is the cross section in pb.

      DOUBLE PRECISION FUNCTION FXN(X, WGT)
      DOUBLE PRECISION X(3), WGT
      DOUBLE PRECISION ECM, ZMASS, ZWIDTH, SIN2W, ALPHA, BETA
      COMMON /PARAMS/ ECM, ZMASS, ZWIDTH, SIN2W, ALPHA, BETA
      DOUBLE PRECISION SUMWGT
      INTEGER NCALLS
      COMMON /TALLY/ SUMWGT, NCALLS
      DOUBLE PRECISION Z1, Z2, COSTH, SME
      EXTERNAL SME

C     Energies are distributed as BETA*(1-Z)**(BETA-1).
      Z1 = 1D0 - X(1)**(1D0/BETA)
      Z2 = 1D0 - X(2)**(1D0/BETA)
      COSTH = 2D0*X(3) - 1D0
      FXN = 2D0*SME(Z1*Z2*ECM**2, COSTH)
      NCALLS = NCALLS + 1
      SUMWGT = SUMWGT + WGT
      END

C     d sigma / d cos(theta) in pb at the squared energy S, in GeV**2,
C     by a photon and a Z, without masses of leptons.
      DOUBLE PRECISION FUNCTION SME(S, COSTH)
      DOUBLE PRECISION S, COSTH
      DOUBLE PRECISION ECM, ZMASS, ZWIDTH, SIN2W, ALPHA, BETA
      COMMON /PARAMS/ ECM, ZMASS, ZWIDTH, SIN2W, ALPHA, BETA
      DOUBLE PRECISION PI, GEV2PB, V, A
      DOUBLE PRECISION RATIO, DENOM, RE, ABS2, EVEN, ODD
      PARAMETER (PI = 3.14159265358979324D0, GEV2PB = 0.3893794D9)

C     Pairs of muons below 20 GeV are not looked at.
      IF (S .LT. 400D0) THEN
         SME = 0D0
         RETURN
      END IF
      V = -0.5D0 + 2D0*SIN2W
      A = -0.5D0
C     Propagator of the Z over that of the photon: real part, square.
      RATIO = S/(4D0*SIN2W*(1D0 - SIN2W))
      DENOM = (S - ZMASS**2)**2 + (ZMASS*ZWIDTH)**2
      RE = RATIO*(S - ZMASS**2)/DENOM
      ABS2 = RATIO**2/DENOM
      EVEN = 1D0 + 2D0*V**2*RE + (V**2 + A**2)**2*ABS2
      ODD = 4D0*A**2*RE + 8D0*V**2*A**2*ABS2
      SME = GEV2PB*PI*ALPHA**2/(2D0*S)
     &     *(EVEN*(1D0 + COSTH**2) + ODD*COSTH)
      END

C     A few GeV above the resonance, and no calls so far.
      BLOCK DATA START
      DOUBLE PRECISION ECM, ZMASS, ZWIDTH, SIN2W, ALPHA, BETA
      COMMON /PARAMS/ ECM, ZMASS, ZWIDTH, SIN2W, ALPHA, BETA
      DOUBLE PRECISION SUMWGT
      INTEGER NCALLS
      COMMON /TALLY/ SUMWGT, NCALLS
      DATA ECM, ZMASS, ZWIDTH /95D0, 91.1876D0, 2.4952D0/
      DATA SIN2W, ALPHA, BETA /0.2312D0, 0.0078125D0, 0.05D0/
      DATA SUMWGT, NCALLS /0D0, 0/
      END
