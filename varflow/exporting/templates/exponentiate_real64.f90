   ! Replace numbers by their exponentials. is_fused: true for this precision, see `begin`.
   subroutine exponentiate(values, rows, is_fused)
      real(wp), intent(inout) :: values(tile)
      integer, intent(in) :: rows
      logical, intent(in) :: is_fused
      if (is_fused) values(:rows) = exp(values(:rows))
   end subroutine exponentiate
