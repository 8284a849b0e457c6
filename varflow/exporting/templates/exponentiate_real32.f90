   ! Replace numbers from min_logit to -min_logit by their exponentials: 2^k exp(r) with |r| <= ln(2)/2, by the
   ! polynomial of Cephes' expf. Unlike the intrinsic function, in vectors.
   subroutine exponentiate(values, rows)
      real(wp), intent(inout) :: values(tile)
      integer, intent(in) :: rows
      integer(int32) :: shifted
      real(wp) :: k, r, p
      integer :: i

      do i = 1, rows
         shifted = int(values(i) * 1.44269504088896341_wp + 128.5_wp, int32) ! positive: rounded down
         k = real(shifted - 128, wp)
         r = values(i) - k * 0.693359375_wp + k * 2.12194440e-4_wp
         p = 1.9875691500e-4_wp
         p = p * r + 1.3981999507e-3_wp
         p = p * r + 8.3334519073e-3_wp
         p = p * r + 4.1665795894e-2_wp
         p = p * r + 1.6666665459e-1_wp
         p = p * r + 5.0000001201e-1_wp
         p = p * r * r + r + 1
         values(i) = p * transfer(shiftl(shifted - 1_int32, 23), values(i)) ! the bits of 2^k
      end do
   end subroutine exponentiate
