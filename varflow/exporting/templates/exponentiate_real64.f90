   ! Replace numbers by their exponentials.
   subroutine exponentiate(values, rows)
      real(wp), intent(inout) :: values(tile)
      integer, intent(in) :: rows
      values(:rows) = exp(values(:rows))
   end subroutine exponentiate
