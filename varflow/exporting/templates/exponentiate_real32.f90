   ! Replace numbers from min_logit to -min_logit by their exponentials: 2^k exp(r) with |r| <= ln(2)/2, by the
   ! polynomial of Cephes' expf. Unlike the intrinsic function, in vectors, and with the roundings of Python.
   subroutine exponentiate(values, rows, is_fused)
      real(wp), intent(inout) :: values(tile)
      integer, intent(in) :: rows
      logical, intent(in) :: is_fused
      real(wp), parameter :: ln2(2) = [-0.693359375_wp, 2.12194440e-4_wp] ! its negative is their sum
      real(wp), parameter :: c(6) = [1.9875691500e-4_wp, 1.3981999507e-3_wp, 8.3334519073e-3_wp, 4.1665795894e-2_wp, &
         1.6666665459e-1_wp, 5.0000001201e-1_wp]
      integer(int32) :: k(tile)
      real(wp) :: exponent, r
      integer :: i

      do i = 1, rows
         exponent = values(i) * 1.44269504088896341_wp + 0.5_wp
         k(i) = int(exponent, int32)
         k(i) = k(i) - merge(1_int32, 0_int32, exponent < real(k(i), wp)) ! floor, which would not be vectorized
      end do
      if (is_fused) then
         do i = 1, rows
            r = values(i) + k(i) * ln2(1) + k(i) * ln2(2)
            values(i) = (((((c(1) * r + c(2)) * r + c(3)) * r + c(4)) * r + c(5)) * r + c(6)) * (r * r) + (r + 1)
         end do
      else
         do i = 1, rows
            r = fused(real(k(i), wp), ln2(2), fused(real(k(i), wp), ln2(1), values(i)))
            values(i) = fused(fused(fused(fused(fused(fused(c(1), r, c(2)), r, c(3)), r, c(4)), r, c(5)), r, c(6)), &
               r * r, r + 1)
         end do
      end if
      do i = 1, rows
         values(i) = values(i) * transfer(shiftl(k(i) + 127_int32, 23), values(i)) ! the bits of 2^k
      end do
   end subroutine exponentiate
