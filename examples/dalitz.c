/*
 * dalitz.c - weighted events of a polarised three-body decay, as CSV:
 *
 *     K1(1400)+  ->  K0 pi+ pi0          (particles 1, 2, 3 in the comments)
 *
 * Build:  cc -O2 -o dalitz dalitz.c -lm
 * Usage:  ./dalitz [n_events [seed]] > dalitz.csv     (defaults 20000 and 1)
 *         ./dalitz - < points.csv > values.csv        (f at points of varflow ask)
 *
 * A line holds a point x of the open unit cube, the density p it was drawn from
 * (uniform: p = 1) and the weight f = d(Gamma)/dx in MeV at that very point. The
 * integral of f over the cube is the partial width.
 *
 * Phase space: sequential decays K1 -> (12) 3 and (12) -> 1 2 (PDG, Review of
 * Particle Physics, "Kinematics") from five numbers:
 *     x1      s12 = m12^2, linear between its kinematic limits
 *     x2, x3  cos(theta), phi of particle 1 in the rest frame of (12), whose
 *             polar axis is the direction of particle 3
 *     x4, x5  cos(theta), phi of particle 3 in the rest frame of the K1
 *
 * Matrix element: K*(892)+ in s12, K*(892)0 in s13, rho(770)+ in s23. Only s12
 * is one of the x; the other bands are curves in (x1, x2), and all three cross
 * near one point and interfere. The K1 (J^P = 1+) decays to vector plus
 * pseudoscalar in S wave, so with its polarisation vector eps
 *     M = eps . J,    J = sum over pairs (ab) of  c_ab BW(s_ab) k_ab,
 *     k_ab = (p_a - p_b) - (p_a + p_b) (m_a^2 - m_b^2) / s_ab,
 * k_ab being the spin-1 Zemach tensor in covariant form. Isospin makes J odd in
 * the exchange of the pions, which fixes the sign of K*0 against K*+. A K1 from
 * B0 -> K1+ pi- has helicity 0: eps is one real direction, tilted here against
 * the axes of the generator. Zemach, Phys. Rev. 133 (1964) B1201; Kuehn and
 * Santamaria, Z. Phys. C 48 (1990) 445 (currents, running widths); Gronau et
 * al., Phys. Rev. Lett. 88 (2002) 051802 (K1 -> K pi pi). The rho coupling and
 * the background are chosen for strong interference; they are no fit to data.
 *
 * Units are GeV, except for f. The x are the same on every platform; the last
 * digits of f may depend on the maths library and on fused multiply-add.
 */
#include <complex.h>
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PI 3.14159265358979323846
#define X_STEPS 100000000u /* x is a multiple of 1e-8 */

/* Masses and widths: PDG 2025. */
typedef struct { double mass, width; } Resonance;
static const double K1_MASS = 1.403;
static const double MASS[3] = {0.497611, 0.13957039, 0.1349768}; /* K0 pi+ pi0 */
static const Resonance KSTAR_PLUS = {0.89167, 0.0514};
static const Resonance KSTAR_ZERO = {0.89555, 0.0473};
static const Resonance RHO_PLUS = {0.77511, 0.1491};

static const double COUPLING = 14.0; /* 1/GeV; gives a width of a realistic size */
static const double RHO_MODULUS = 0.9, RHO_PHASE = 0.7; /* relative to K* pi */
static const double BACKGROUND = 0.5; /* other waves, incoherent; keeps f > 0 */
static const double EPS[3] = {0.64, 0.48, 0.60}; /* polarisation, a unit vector */

/* splitmix64 (S. Vigna, public domain); any seed will do. */
static uint64_t next_random(uint64_t *state)
{
    uint64_t z = (*state += UINT64_C(0x9e3779b97f4a7c15));
    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

/* x in steps of 1e-8, never 0 or 1. It stays an integer until it is used, so
 * that eight printed decimals give back exactly the double f was computed from. */
static unsigned draw_step(uint64_t *state)
{
    unsigned step;
    do {
        double u = (double)(next_random(state) >> 11) * 0x1p-53;
        step = (unsigned)(u * X_STEPS + 0.5);
    } while (step == 0 || step >= X_STEPS);
    return step;
}

/* Momentum of either product of a two-body decay, in the rest frame. */
static double breakup_momentum(double m, double ma, double mb)
{
    double sum = ma + mb, diff = ma - mb;
    double q2 = (m - sum) * (m + sum) * (m - diff) * (m + diff) / (4.0 * m * m);
    return q2 > 0.0 ? sqrt(q2) : 0.0; /* rounding can make it < 0 at threshold */
}

/* Four-momenta are (E, px, py, pz). */
static void boost_along_z(double p[4], double gamma, double gamma_beta)
{
    double e = p[0];
    p[0] = gamma * e + gamma_beta * p[3];
    p[3] = gamma * p[3] + gamma_beta * e;
}

/* Turn the z axis into the direction (cos_theta, phi). */
static void rotate(double p[4], double cos_theta, double phi)
{
    double sin_theta = sqrt((1.0 - cos_theta) * (1.0 + cos_theta));
    double x = cos_theta * p[1] + sin_theta * p[3], y = p[2];
    p[3] = cos_theta * p[3] - sin_theta * p[1];
    p[1] = cos(phi) * x - sin(phi) * y;
    p[2] = sin(phi) * x + cos(phi) * y;
}

/* Four-momenta in the K1 rest frame; returns the phase-space weight dPhi3/dx. */
static double phase_space(const double x[5], double p[3][4])
{
    double s_min = (MASS[0] + MASS[1]) * (MASS[0] + MASS[1]);
    double s_max = (K1_MASS - MASS[2]) * (K1_MASS - MASS[2]);
    double m12 = sqrt(s_min + x[0] * (s_max - s_min));
    double q = breakup_momentum(m12, MASS[0], MASS[1]); /* of 1 in (12) */
    double k = breakup_momentum(K1_MASS, m12, MASS[2]); /* of 3 in the K1 */
    double gamma = hypot(m12, k) / m12;                 /* of (12) in the K1 */
    double cos_q = 2.0 * x[1] - 1.0, phi_q = 2.0 * PI * x[2];
    double qt = q * sqrt((1.0 - cos_q) * (1.0 + cos_q));
    double qx = qt * cos(phi_q), qy = qt * sin(phi_q), qz = q * cos_q;

    const double start[3][4] = {{hypot(MASS[0], q), qx, qy, qz},
                                {hypot(MASS[1], q), -qx, -qy, -qz},
                                {hypot(MASS[2], k), 0.0, 0.0, k}};

    memcpy(p, start, sizeof start);
    boost_along_z(p[0], gamma, -k / m12); /* (12) recoils against particle 3 */
    boost_along_z(p[1], gamma, -k / m12);
    for (int i = 0; i < 3; i++)
        rotate(p[i], 2.0 * x[3] - 1.0, 2.0 * PI * x[4]);

    /* ds12/(2 pi), times dPhi2 = momentum/(4 pi mass) dOmega/(4 pi) per decay */
    return (s_max - s_min) / (2.0 * PI)
         * k / (4.0 * PI * K1_MASS) * q / (4.0 * PI * m12);
}

/* P-wave Breit-Wigner with running width, 1 at s = 0 like Kuehn-Santamaria's. */
static double complex breit_wigner(double m, Resonance r, double ma, double mb)
{
    double ratio = breakup_momentum(m, ma, mb) / breakup_momentum(r.mass, ma, mb);
    double width = r.width * (r.mass / m) * ratio * ratio * ratio;
    double m02 = r.mass * r.mass;
    return m02 / (m02 - m * m - I * (r.mass * width));
}

/* Add c BW k for a resonance in particles a and b. Only the space components:
 * eps has no time component in the K1 rest frame. */
static void add_resonance(double complex current[3], double complex c, Resonance r,
                          double p[3][4], int a, int b)
{
    double sum[4], ma = MASS[a], mb = MASS[b];
    for (int i = 0; i < 4; i++)
        sum[i] = p[a][i] + p[b][i];
    double s = sum[0] * sum[0]
             - (sum[1] * sum[1] + sum[2] * sum[2] + sum[3] * sum[3]);
    double complex amplitude = c * breit_wigner(sqrt(s), r, ma, mb);
    for (int i = 0; i < 3; i++)
        current[i] += amplitude * (p[a][i + 1] - p[b][i + 1]
                                   - sum[i + 1] * (ma * ma - mb * mb) / s);
}

static double matrix_element_squared(double p[3][4])
{
    double complex current[3] = {0.0, 0.0, 0.0}, m = 0.0;
    add_resonance(current, 1.0, KSTAR_PLUS, p, 0, 1);
    add_resonance(current, -1.0, KSTAR_ZERO, p, 0, 2);
    add_resonance(current, RHO_MODULUS * cexp(I * RHO_PHASE), RHO_PLUS, p, 1, 2);
    for (int i = 0; i < 3; i++)
        m += EPS[i] * current[i];
    return COUPLING * COUPLING * (creal(m * conj(m)) + BACKGROUND);
}

static double differential_width(const double x[5]) /* in MeV */
{
    double p[3][4];
    double jacobian = phase_space(x, p);
    return 1000.0 * matrix_element_squared(p) * jacobian / (2.0 * K1_MASS);
}

/* Decimal digits only (strtoull alone would take "-1"), and few enough to fit. */
static int parse_number(const char *text, uint64_t *value)
{
    size_t length = strlen(text);
    *value = strtoull(text, NULL, 10);
    return length >= 1 && length <= 18 && strspn(text, "0123456789") == length;
}

/* Read a header and lines index,x1,...,x5 from stdin; write lines index,f. */
static int evaluate(void)
{
    long index;
    double x[5];
    int found = scanf("%*[^\n]"); /* the header */
    puts("index,f");
    while ((found = scanf("%ld,%lf,%lf,%lf,%lf,%lf", &index, x, x + 1, x + 2, x + 3, x + 4)) == 6)
        printf("%ld,%.17g\n", index, differential_width(x));
    if (found != EOF)
        fputs("dalitz: needs lines index,x1,x2,x3,x4,x5\n", stderr);
    return found != EOF || fflush(stdout) != 0 || ferror(stdout);
}

int main(int argc, char **argv)
{
    uint64_t n_events = 20000, seed = 1;
    if (argc == 2 && strcmp(argv[1], "-") == 0)
        return evaluate();
    if (argc > 3 || (argc > 1 && !parse_number(argv[1], &n_events)) || n_events == 0
        || (argc > 2 && !parse_number(argv[2], &seed))) {
        fputs("usage: dalitz [n_events > 0 [seed >= 0]], or dalitz -\n", stderr);
        return 2;
    }
    puts("x1,x2,x3,x4,x5,p,f");
    for (uint64_t event = 0; event < n_events; event++) {
        double x[5];
        for (int i = 0; i < 5; i++) {
            unsigned step = draw_step(&seed);
            x[i] = (double)step / X_STEPS;
            printf("0.%08u,", step);
        }
        printf("1,%.17g\n", differential_width(x));
    }
    return fflush(stdout) != 0 || ferror(stdout); /* 1 if the disk is full, say */
}
