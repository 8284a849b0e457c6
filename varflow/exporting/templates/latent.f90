   ! Map n points x of the box to latent points z of the unit cube; log_q as NAME_log_prob.
   subroutine NAME_to_latent(n, x, z, log_q, weights, work, status)
      integer, intent(in) :: n
      real(dp), intent(in) :: x(:, :)
      real(dp), intent(inout) :: z(:, :), log_q(:)
      real(NAME_real), intent(in) :: weights(NAME_n_weights)
      type(NAME_workspace), intent(inout) :: work
      integer, intent(out) :: status
      integer :: m, done

      status = NAME_bad_argument
      if (.not. has_room(n, x) .or. .not. has_room(n, z) .or. size(log_q) < n) return
      status = NAME_ok
      do done = 0, n - 1, tile
         m = tile_size(n, done)
         call load_points(work%points, x(:, done + 1:), m, lower, upper, work%is_outside, status)
         call density(padded(m), weights, work)
         call store_points(z(:, done + 1:), work%coordinates, m, work%is_outside)
         call store_log_q(log_q(done + 1:), m, work)
      end do
   end subroutine NAME_to_latent

   ! Map n latent points z of the unit cube to points x of the box; log_q of these.
   subroutine NAME_from_latent(n, z, x, log_q, weights, work, status)
      integer, intent(in) :: n
      real(dp), intent(in) :: z(:, :)
      real(dp), intent(inout) :: x(:, :), log_q(:)
      real(NAME_real), intent(in) :: weights(NAME_n_weights)
      type(NAME_workspace), intent(inout) :: work
      integer, intent(out) :: status
      integer :: m, done

      status = NAME_bad_argument
      if (.not. has_room(n, x) .or. .not. has_room(n, z) .or. size(log_q) < n) return
      status = NAME_ok
      do done = 0, n - 1, tile
         m = tile_size(n, done)
         call load_points(work%latent, z(:, done + 1:), m, zeros, ones, work%is_outside, status)
         work%component = 1
         call from_component(1, m, weights, work)
         call store_points(x(:, done + 1:), work%points, m, work%is_outside)
         call store_log_q(log_q(done + 1:), m, work)
      end do
   end subroutine NAME_from_latent
