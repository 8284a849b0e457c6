! NAME.f90: a normalizing flow, without Python.
!
! Written by varflow @VERSION@; to change it, export the flow again. The guide is examples/guides/export.md.
!
! Points are columns of arrays (NAME_d, n). log_q is the natural logarithm of the density at a point, (n). Arrays
! may be larger. The subroutines allocate nothing, print nothing and have no state but the workspace, which need not
! be set before. Threads may call them at the same time, each with a workspace of its own; they share the weights.
! status is NAME_ok, which is 0, or says what was wrong; NAME_message has words for it.
module NAME_module
   use, intrinsic :: ieee_arithmetic, only: ieee_quiet_nan, ieee_value
   use, intrinsic :: iso_fortran_env, only: @KINDS@
   implicit none
   private
   public :: @PUBLIC@

   integer, parameter, public :: NAME_d = @D@, NAME_n_weights = @N_WEIGHTS@
   integer, parameter, public :: NAME_real = @REAL@ ! kind of the networks
   integer, parameter, public :: NAME_tile = 64 ! points that pass through the flow together

   integer, parameter, public :: NAME_ok = 0
   integer, parameter, public :: NAME_bad_argument = 1 ! an array that is too small, or a negative number
   integer, parameter, public :: NAME_outside = 2 ! points outside the box, or not finite: their results are NaN
   integer, parameter, public :: NAME_no_file = 3 ! from here on: NAME_load
   integer, parameter, public :: NAME_wrong_size = 4
   integer, parameter, public :: NAME_wrong_sum = 5
   integer, parameter, public :: NAME_wrong_sample = 6 ! from here on: NAME_verify
   integer, parameter, public :: NAME_wrong_log_prob = 7
   integer, parameter, public :: NAME_wrong_to_latent = 8
   integer, parameter, public :: NAME_wrong_from_latent = 9

   integer, parameter :: wp = NAME_real, dp = real64, tile = NAME_tile
   integer, parameter :: lanes = 16 ! points are processed in multiples of this, for vector instructions
   integer, parameter :: slopes_per_log = 8 ! slopes whose product cannot underflow
   integer, parameter :: sample_block = 65536 ! points with a random generator of their own
   integer, parameter :: pwlinear = 0, pwquad = 1, rqs = 2, realnvp = 3
   real(dp), parameter :: min_share = 1e-3_dp, min_slope = 1e-3_dp
   real(wp), parameter :: min_logit = -80, max_log_slope = 20
   real(wp), parameter :: max_log_scale = 2, max_tanh = 20
   real(dp), parameter :: max_coordinate = 1e18_dp, max_input = 3, half_log_2_pi = 0.91893853320467274178_dp
   integer(int64), parameter :: mask16 = 65535_int64, mask32 = 4294967295_int64

   type, public :: NAME_workspace
      private
      real(dp), dimension(NAME_tile, NAME_d) :: points, latent, coordinates
      real(dp), dimension(NAME_tile) :: log_det, slopes, log_q
      integer, dimension(NAME_tile) :: component, rows
      logical :: is_outside(NAME_tile), is_fused
      real(NAME_real) :: inputs(NAME_tile, NAME_d), hidden(NAME_tile, @D_HIDDEN@, 2), logits(NAME_tile, @N_OUT@)
   end type NAME_workspace

   type :: cell_type
      integer :: kind, n_bins, n_logits ! of its spline
      integer :: n_inputs, n_hidden, d_hidden ! of its network
      integer :: weights ! number of weights before its first
   end type cell_type

   type :: stream_type ! the random numbers of a sample block; the last four are kept
      integer(int64) :: keys(2, 10), purpose, block, quad, numbers(4)
   end type stream_type

   abstract interface
      subroutine spline(kind, n, u, slope, values, rows)
         import :: dp, wp, tile
         integer, intent(in) :: kind, n, rows
         real(dp), intent(inout) :: u(tile)
         real(dp), intent(out) :: slope(tile)
         real(wp), intent(in) :: values(tile, *)
      end subroutine spline
   end interface

@TABLES@

contains

   ! ---- Networks. Activations are (tile, neurons). ----

   ! Add the products of inputs and weights to the sums of an output, in the order of the inputs, as Python does, each
   ! with a single rounding. Compilers choose that where the processor can do it (with gfortran: -march=native).
   ! Eight at a time, since loading and storing a sum takes as long as a product.
   subroutine add_fused_products(sums, weights, inputs, n_in, rows)
      real(wp), intent(inout) :: sums(tile)
      integer, intent(in) :: n_in, rows
      real(wp), intent(in) :: weights(n_in), inputs(tile, n_in)
      integer :: k, r, n_whole

      n_whole = n_in / 8 * 8
      do k = 1, n_whole, 8
         do r = 1, rows
            sums(r) = sums(r) + weights(k) * inputs(r, k) + weights(k + 1) * inputs(r, k + 1) &
               + weights(k + 2) * inputs(r, k + 2) + weights(k + 3) * inputs(r, k + 3) &
               + weights(k + 4) * inputs(r, k + 4) + weights(k + 5) * inputs(r, k + 5) &
               + weights(k + 6) * inputs(r, k + 6) + weights(k + 7) * inputs(r, k + 7)
         end do
      end do
      do k = n_whole + 1, n_in
         do r = 1, rows
            sums(r) = sums(r) + weights(k) * inputs(r, k)
         end do
      end do
   end subroutine add_fused_products

   ! Do so where the processor can't: float64 gives the same result, but for one in 10^8, and takes much longer.
   subroutine add_rounded_products(sums, weights, inputs, n_in, rows)
      real(wp), intent(inout) :: sums(tile)
      integer, intent(in) :: n_in, rows
      real(wp), intent(in) :: weights(n_in), inputs(tile, n_in)
      integer :: k, r

      do k = 1, n_in
         do r = 1, rows
            sums(r) = fused(weights(k), inputs(r, k), sums(r))
         end do
      end do
   end subroutine add_rounded_products

   ! a * b + c with a single rounding, or nearly
   elemental real(wp) function fused(a, b, c)
      real(wp), intent(in) :: a, b, c
      fused = real(real(a, dp) * b + c, wp)
   end function fused

   ! Whether add_fused_products deserves its name here.
   logical function has_fused_products()
      real(wp), volatile :: factor ! unknown to the compiler, which would compute the sum by itself
      real(wp) :: sums(tile), weights(8), inputs(tile, 8)

      factor = 1 + sqrt(epsilon(factor) / 2) ! its square is not representable
      weights = factor
      inputs(:lanes, :) = 0
      inputs(:lanes, 8) = factor
      sums(:lanes) = -weights(1)**2
      call add_fused_products(sums, weights, inputs, 8, lanes)
      has_fused_products = all(abs(sums(:lanes)) > 0)
   end function has_fused_products

   subroutine add_products(sums, weights, inputs, n_in, rows, is_fused)
      real(wp), intent(inout) :: sums(tile)
      integer, intent(in) :: n_in, rows
      real(wp), intent(in) :: weights(n_in), inputs(tile, n_in)
      logical, intent(in) :: is_fused

      if (is_fused) then
         call add_fused_products(sums, weights, inputs, n_in, rows)
      else
         call add_rounded_products(sums, weights, inputs, n_in, rows)
      end if
   end subroutine add_products

   ! Compute a hidden layer, with leaky ReLU.
   subroutine hidden_layer(outputs, n_out, weights, biases, inputs, n_in, rows, is_fused)
      integer, intent(in) :: n_out, n_in, rows
      real(wp), intent(out) :: outputs(tile, n_out)
      real(wp), intent(in) :: weights(n_in, n_out), biases(n_out), inputs(tile, n_in)
      logical, intent(in) :: is_fused
      integer :: j, r

      do j = 1, n_out
         outputs(:rows, j) = biases(j)
         call add_products(outputs(:, j), weights(:, j), inputs, n_in, rows, is_fused)
         do r = 1, rows
            outputs(r, j) = max(outputs(r, j), 0.01_wp * outputs(r, j))
         end do
      end do
   end subroutine hidden_layer

   ! Compute the last layer. Its biases are added at the end, as Python does.
   subroutine last_layer(outputs, n_out, weights, biases, inputs, n_in, rows, is_fused)
      integer, intent(in) :: n_out, n_in, rows
      real(wp), intent(out) :: outputs(tile, n_out)
      real(wp), intent(in) :: weights(n_in, n_out), biases(n_out), inputs(tile, n_in)
      logical, intent(in) :: is_fused
      integer :: j

      do j = 1, n_out
         outputs(:rows, j) = 0
         call add_products(outputs(:, j), weights(:, j), inputs, n_in, rows, is_fused)
         outputs(:rows, j) = outputs(:rows, j) + biases(j)
      end do
   end subroutine last_layer

   ! What a network sees of a coordinate: of one without bounds, no more than max_input.
   elemental real(dp) function network_input(x)
      real(dp), intent(in) :: x
      real(dp) :: bounded

      if (is_normal) then
         bounded = min(max(x, -max_coordinate), max_coordinate)
         network_input = max_input * bounded / sqrt(max_input * max_input + bounded * bounded)
      else
         network_input = 2 * x - 1
      end if
   end function network_input

   ! Compute the logits of cell c, (tile, n_logits of each transformed coordinate in turn), from those it is conditioned on.
   subroutine conditioner(c, rows, weights, work)
      integer, intent(in) :: c, rows
      real(wp), intent(in) :: weights(NAME_n_weights)
      type(NAME_workspace), intent(inout) :: work
      integer :: i, k, n_in, n_out, here, first, biases

      n_in = cells(c)%n_inputs
      n_out = cells(c)%n_logits * (NAME_d - n_in)
      first = cells(c)%weights + 1
      if (n_in == 0) then ! the biases of the last layer are all there is
         do i = 1, n_out
            work%logits(:rows, i) = weights(first + i - 1)
         end do
         return
      end if
      do i = 1, n_in
         work%inputs(:rows, i) = real(network_input(work%coordinates(:rows, split(i, c))), wp)
      end do
      associate (n_hidden => cells(c)%n_hidden, d_hidden => cells(c)%d_hidden)
         here = 1 ! of two arrays, the one that the last layer so far is in
         biases = first + n_in * d_hidden
         call hidden_layer(work%hidden(:, :, here), d_hidden, weights(first), weights(biases), &
            work%inputs, n_in, rows, work%is_fused)
         do k = 2, n_hidden
            first = biases + d_hidden
            biases = first + d_hidden * d_hidden
            call hidden_layer(work%hidden(:, :, 3 - here), d_hidden, weights(first), weights(biases), &
               work%hidden(:, :, here), d_hidden, rows, work%is_fused)
            here = 3 - here
         end do
         first = biases + d_hidden
         biases = first + d_hidden * n_out
         call last_layer(work%logits, n_out, weights(first), weights(biases), &
            work%hidden(:, :, here), d_hidden, rows, work%is_fused)
      end associate
   end subroutine conditioner

   ! ---- Splines of one coordinate. `values` (tile, logits) are what `activate` makes of the logits. Where a point is
   ! among the bins is decided by factors of 0 and 1, since what is conditional would not be vectorized. ----

@EXPONENTIATE@

   ! Convert n logits to exp(logit - largest logit of the point).
   subroutine exponentials(n, values, rows, is_fused)
      integer, intent(in) :: n, rows
      real(wp), intent(inout) :: values(tile, n)
      logical, intent(in) :: is_fused
      real(wp) :: largest(tile)
      integer :: j

      largest(:rows) = values(:rows, 1)
      do j = 2, n
         largest(:rows) = max(largest(:rows), values(:rows, j))
      end do
      do j = 1, n
         values(:rows, j) = max(values(:rows, j) - largest(:rows), min_logit)
         call exponentiate(values(:, j), rows, is_fused)
      end do
   end subroutine exponentials

   ! Convert n logits to exponentials without a common factor.
   subroutine exponential_slopes(n, values, rows, is_fused)
      integer, intent(in) :: n, rows
      real(wp), intent(inout) :: values(tile, n)
      logical, intent(in) :: is_fused
      integer :: j

      do j = 1, n
         values(:rows, j) = min(max(values(:rows, j), -max_log_slope), max_log_slope)
         call exponentiate(values(:, j), rows, is_fused)
      end do
   end subroutine exponential_slopes

   ! Convert the first of two logits to a log scale, max_log_scale at most; the other is a shift.
   subroutine realnvp_activate(values, rows, is_fused)
      integer, intent(in) :: rows
      real(wp), intent(inout) :: values(tile, 2)
      logical, intent(in) :: is_fused

      values(:rows, 1) = 2 * min(max(values(:rows, 1) / max_log_scale, -max_tanh), max_tanh)
      call exponentiate(values(:, 1), rows, is_fused)
      values(:rows, 1) = max_log_scale * ((values(:rows, 1) - 1) / (values(:rows, 1) + 1))
   end subroutine realnvp_activate

   ! Convert the logits of a coordinate to what the splines take.
   subroutine activate(kind, n, values, rows, is_fused)
      integer, intent(in) :: kind, n, rows
      real(wp), intent(inout) :: values(tile, *)
      logical, intent(in) :: is_fused

      if (kind == realnvp) then
         call realnvp_activate(values, rows, is_fused)
         return
      end if
      call exponentials(n, values, rows, is_fused)
      select case (kind)
      case (pwquad)
         call exponentials(n + 1, values(1, n + 1), rows, is_fused)
      case (rqs)
         call exponentials(n, values(1, n + 1), rows, is_fused)
         call exponential_slopes(n + 1, values(1, 2 * n + 1), rows, is_fused)
      end select
   end subroutine activate

   elemental real(dp) function as_number(is_true)
      logical, intent(in) :: is_true
      as_number = merge(1.0_dp, 0.0_dp, is_true)
   end function as_number

   ! Piecewise linear map with n bins of equal width (Mueller et al., arXiv 1808.03856, section 4.1). values:
   ! contents of the bins. u is x before and z after, slope is dz/dx.
   subroutine pwlinear_forward(n, u, slope, values, rows)
      integer, intent(in) :: n, rows
      real(dp), intent(inout) :: u(tile)
      real(dp), intent(out) :: slope(tile)
      real(wp), intent(in) :: values(tile, n)
      real(dp), dimension(tile) :: z, total, content, position
      real(dp) :: right
      integer :: i, j

      z = 0
      total = 0
      content = 0
      position(:rows) = u(:rows) * n
      do j = 1, n
         right = merge(real(j, dp), huge(right), j < n)
         do i = 1, rows
            z(i) = z(i) + values(i, j) * min(max(position(i) - (j - 1), 0.0_dp), 1.0_dp)
            total(i) = total(i) + values(i, j)
            content(i) = content(i) + values(i, j) * (as_number(j - 1 <= position(i)) - as_number(right <= position(i)))
         end do
      end do
      do i = 1, rows
         u(i) = min(z(i) / total(i), 1.0_dp)
         slope(i) = content(i) * n / total(i)
      end do
   end subroutine pwlinear_forward

   ! Inverse of pwlinear_forward: u is z before and x after, slope is dz/dx.
   subroutine pwlinear_inverse(n, u, slope, values, rows)
      integer, intent(in) :: n, rows
      real(dp), intent(inout) :: u(tile)
      real(dp), intent(out) :: slope(tile)
      real(wp), intent(in) :: values(tile, n)
      real(dp), dimension(tile) :: left_over, total, k
      real(dp) :: here, is_beyond
      integer :: i, j

      total = 0
      k = 0
      do j = 1, n
         total(:rows) = total(:rows) + values(:rows, j)
      end do
      left_over(:rows) = merge(u(:rows) * total(:rows), huge(here), u(:rows) < 1) ! 1 maps to 1, however sums are rounded
      do j = 1, n - 1
         do i = 1, rows
            is_beyond = as_number(k(i) > j - 1.5_dp) * as_number(left_over(i) >= values(i, j))
            left_over(i) = left_over(i) - is_beyond * values(i, j)
            k(i) = k(i) + is_beyond
         end do
      end do
      do i = 1, rows
         here = values(i, int(k(i)) + 1)
         u(i) = (k(i) + min(max(left_over(i) / here, 0.0_dp), 1.0_dp)) / n
         slope(i) = here * n / total(i)
      end do
   end subroutine pwlinear_inverse

   ! Locate the bins that contain the targets: x, or z if is_latent. k: number of the bin, from 0. left: its left
   ! edge. below: area under the polygon to the left of it. factor: of widths. area: of all bins.
   subroutine pwquad_locate(k, left, below, factor, area, target, is_latent, n, values, rows)
      real(dp), dimension(tile), intent(out) :: k, left, below, factor, area
      real(dp), intent(in) :: target(tile)
      logical, intent(in) :: is_latent
      integer, intent(in) :: n, rows
      real(wp), intent(in) :: values(tile, 2 * n + 1)
      real(dp) :: sum_of_heights(tile), goal(tile), least, height, width, part, reached, is_beyond
      integer :: i, j

      least = min_share / n
      k = 0
      left = 0
      below = 0
      factor = 0
      area = 0
      sum_of_heights = 0
      do j = 1, n
         do i = 1, rows
            height = 0.5_dp * (real(values(i, n + j), dp) + values(i, n + j + 1))
            factor(i) = factor(i) + values(i, j)
            area(i) = area(i) + values(i, j) * height
            sum_of_heights(i) = sum_of_heights(i) + height
         end do
      end do
      factor(:rows) = (1 - min_share) / factor(:rows)
      area(:rows) = least * sum_of_heights(:rows) + factor(:rows) * area(:rows)
      goal(:rows) = target(:rows)
      if (is_latent) goal(:rows) = target(:rows) * area(:rows)
      do j = 1, n - 1
         do i = 1, rows
            height = 0.5_dp * (real(values(i, n + j), dp) + values(i, n + j + 1))
            width = least + factor(i) * values(i, j)
            part = width * height
            reached = merge(below(i) + part, left(i) + width, is_latent)
            is_beyond = as_number(k(i) > j - 1.5_dp) * as_number(goal(i) >= reached)
            k(i) = k(i) + is_beyond
            left(i) = left(i) + is_beyond * width
            below(i) = below(i) + is_beyond * part
         end do
      end do
   end subroutine pwquad_locate

   ! Height between two vertices, which rounding could put below the lower one.
   elemental real(dp) function pwquad_height(low, high, inside)
      real(dp), intent(in) :: low, high, inside
      pwquad_height = max(low * (1 - inside) + high * inside, min(low, high))
   end function pwquad_height

   ! Piecewise quadratic map, whose slope is a polygon (Mueller et al., section 4.2). values: widths of n bins, then
   ! heights of n + 1 vertices, each up to a common factor.
   subroutine pwquad_forward(n, u, slope, values, rows)
      integer, intent(in) :: n, rows
      real(dp), intent(inout) :: u(tile)
      real(dp), intent(out) :: slope(tile)
      real(wp), intent(in) :: values(tile, 2 * n + 1)
      real(dp), dimension(tile) :: k, left, below, factor, area
      real(dp) :: low, high, width, inside, height
      integer :: i, j

      call pwquad_locate(k, left, below, factor, area, u, .false., n, values, rows)
      do i = 1, rows
         j = int(k(i)) + 1
         low = values(i, n + j)
         high = values(i, n + j + 1)
         width = min_share / n + factor(i) * values(i, j)
         inside = min(max((u(i) - left(i)) / width, 0.0_dp), 1.0_dp)
         height = pwquad_height(low, high, inside)
         u(i) = min((below(i) + 0.5_dp * width * inside * (low + height)) / area(i), 1.0_dp)
         slope(i) = height / area(i)
      end do
   end subroutine pwquad_forward

   subroutine pwquad_inverse(n, u, slope, values, rows)
      integer, intent(in) :: n, rows
      real(dp), intent(inout) :: u(tile)
      real(dp), intent(out) :: slope(tile)
      real(wp), intent(in) :: values(tile, 2 * n + 1)
      real(dp), dimension(tile) :: k, left, below, factor, area
      real(dp) :: low, high, width, inside, height, part
      integer :: i, j

      call pwquad_locate(k, left, below, factor, area, u, .true., n, values, rows)
      do i = 1, rows
         j = merge(int(k(i)) + 1, n, u(i) < 1) ! 1 maps to 1, however the areas' sum is rounded
         low = values(i, n + j)
         high = values(i, n + j + 1)
         width = min_share / n + factor(i) * values(i, j)
         part = max(u(i) * area(i) - below(i), 0.0_dp) / width
         height = sqrt(max(low * low + 2 * (high - low) * part, 0.0_dp))
         inside = merge(min(2 * part / (low + height), 1.0_dp), 1.0_dp, u(i) < 1) ! root without cancellation
         u(i) = merge(min(left(i) + width * inside, 1.0_dp), 1.0_dp, u(i) < 1)
         slope(i) = pwquad_height(low, high, inside) / area(i)
      end do
   end subroutine pwquad_inverse

   ! Locate the bins that contain the targets: x, or z if is_latent. k: number of the bin, from 0. left, bottom: its
   ! edges in x and z. factor, height_factor: of widths and heights.
   subroutine rqs_locate(k, left, bottom, factor, height_factor, target, is_latent, n, values, rows)
      real(dp), dimension(tile), intent(out) :: k, left, bottom, factor, height_factor
      real(dp), intent(in) :: target(tile)
      logical, intent(in) :: is_latent
      integer, intent(in) :: n, rows
      real(wp), intent(in) :: values(tile, 3 * n + 1)
      real(dp) :: least, width, height, reached, is_beyond
      integer :: i, j

      least = min_share / n
      k = 0
      left = 0
      bottom = 0
      factor = 0
      height_factor = 0
      do j = 1, n
         factor(:rows) = factor(:rows) + values(:rows, j)
         height_factor(:rows) = height_factor(:rows) + values(:rows, n + j)
      end do
      factor(:rows) = (1 - min_share) / factor(:rows)
      height_factor(:rows) = (1 - min_share) / height_factor(:rows)
      do j = 1, n - 1
         do i = 1, rows
            width = least + factor(i) * values(i, j)
            height = least + height_factor(i) * values(i, n + j)
            reached = merge(bottom(i) + height, left(i) + width, is_latent)
            is_beyond = as_number(k(i) > j - 1.5_dp) * as_number(target(i) >= reached)
            k(i) = k(i) + is_beyond
            left(i) = left(i) + is_beyond * width
            bottom(i) = bottom(i) + is_beyond * height
         end do
      end do
   end subroutine rqs_locate

   ! Slope of the map (Durkan et al., equation 5). first, last: slopes at the edges of the bin. mean: mean slope.
   elemental real(dp) function rqs_slope(first, last, mean, inside)
      real(dp), intent(in) :: first, last, mean, inside
      real(dp) :: outside, both
      outside = 1 - inside
      both = inside * outside
      rqs_slope = (last * inside * inside + 2 * mean * both + first * outside * outside) &
         * (mean / (mean + (first + last - 2 * mean) * both))**2
   end function rqs_slope

   ! Monotone rational-quadratic spline (Durkan et al., arXiv 1906.04032, equations 4 and 5). values: n widths and n
   ! heights, each up to a common factor, and n + 1 slopes.
   subroutine rqs_forward(n, u, slope, values, rows)
      integer, intent(in) :: n, rows
      real(dp), intent(inout) :: u(tile)
      real(dp), intent(out) :: slope(tile)
      real(wp), intent(in) :: values(tile, 3 * n + 1)
      real(dp), dimension(tile) :: k, left, bottom, factor, height_factor
      real(dp) :: width, height, first, last, mean, inside, both, ratio
      integer :: i, j

      call rqs_locate(k, left, bottom, factor, height_factor, u, .false., n, values, rows)
      do i = 1, rows
         j = int(k(i)) + 1
         width = min_share / n + factor(i) * values(i, j)
         height = min_share / n + height_factor(i) * values(i, n + j)
         first = min_slope + (1 - min_slope) * values(i, 2 * n + j)
         last = min_slope + (1 - min_slope) * values(i, 2 * n + j + 1)
         mean = height / width
         inside = min(max((u(i) - left(i)) / width, 0.0_dp), 1.0_dp)
         both = inside * (1 - inside)
         ratio = (mean * inside * inside + first * both) / (mean + (first + last - 2 * mean) * both)
         u(i) = min(bottom(i) + height * min(ratio, 1.0_dp), 1.0_dp)
         slope(i) = rqs_slope(first, last, mean, inside)
      end do
   end subroutine rqs_forward

   ! Inverse of rqs_forward (equations 6 to 8).
   subroutine rqs_inverse(n, u, slope, values, rows)
      integer, intent(in) :: n, rows
      real(dp), intent(inout) :: u(tile)
      real(dp), intent(out) :: slope(tile)
      real(wp), intent(in) :: values(tile, 3 * n + 1)
      real(dp), dimension(tile) :: k, left, bottom, factor, height_factor
      real(dp) :: width, height, first, last, mean, inside, ratio, excess, a, b, c, root
      integer :: i, j

      call rqs_locate(k, left, bottom, factor, height_factor, u, .true., n, values, rows)
      do i = 1, rows
         j = merge(int(k(i)) + 1, n, u(i) < 1) ! 1 maps to 1, however the heights' sum is rounded
         width = min_share / n + factor(i) * values(i, j)
         height = min_share / n + height_factor(i) * values(i, n + j)
         first = min_slope + (1 - min_slope) * values(i, 2 * n + j)
         last = min_slope + (1 - min_slope) * values(i, 2 * n + j + 1)
         mean = height / width
         ratio = min(max((u(i) - bottom(i)) / height, 0.0_dp), 1.0_dp)
         excess = first + last - 2 * mean
         a = mean - first + ratio * excess
         b = first - ratio * excess
         c = -mean * ratio
         root = sqrt(max(b * b - 4 * a * c, 0.0_dp))
         if (b > 0) then ! without cancellation
            inside = -2 * c / (b + root)
         else
            inside = (root - b) / max(2 * a, 1e-30_dp)
         end if
         inside = merge(min(inside, 1.0_dp), 1.0_dp, u(i) < 1)
         u(i) = merge(min(left(i) + width * inside, 1.0_dp), 1.0_dp, u(i) < 1)
         slope(i) = rqs_slope(first, last, mean, inside)
      end do
   end subroutine rqs_inverse

   ! Affine map (Dinh et al., arXiv 1605.08803, equation 7). values: log scales and shifts.
   subroutine realnvp_forward(u, slope, values, rows)
      integer, intent(in) :: rows
      real(dp), intent(inout) :: u(tile)
      real(dp), intent(out) :: slope(tile)
      real(wp), intent(in) :: values(tile, 2)

      slope(:rows) = exp(real(values(:rows, 1), dp))
      u(:rows) = u(:rows) * slope(:rows) + values(:rows, 2)
   end subroutine realnvp_forward

   subroutine realnvp_inverse(u, slope, values, rows)
      integer, intent(in) :: rows
      real(dp), intent(inout) :: u(tile)
      real(dp), intent(out) :: slope(tile)
      real(wp), intent(in) :: values(tile, 2)

      slope(:rows) = exp(real(values(:rows, 1), dp))
      u(:rows) = (u(:rows) - values(:rows, 2)) / slope(:rows)
   end subroutine realnvp_inverse

   subroutine spline_forward(kind, n, u, slope, values, rows)
      integer, intent(in) :: kind, n, rows
      real(dp), intent(inout) :: u(tile)
      real(dp), intent(out) :: slope(tile)
      real(wp), intent(in) :: values(tile, *)

      select case (kind)
      case (pwlinear)
         call pwlinear_forward(n, u, slope, values, rows)
      case (pwquad)
         call pwquad_forward(n, u, slope, values, rows)
      case (rqs)
         call rqs_forward(n, u, slope, values, rows)
      case (realnvp)
         call realnvp_forward(u, slope, values, rows)
      end select
   end subroutine spline_forward

   subroutine spline_inverse(kind, n, u, slope, values, rows)
      integer, intent(in) :: kind, n, rows
      real(dp), intent(inout) :: u(tile)
      real(dp), intent(out) :: slope(tile)
      real(wp), intent(in) :: values(tile, *)

      select case (kind)
      case (pwlinear)
         call pwlinear_inverse(n, u, slope, values, rows)
      case (pwquad)
         call pwquad_inverse(n, u, slope, values, rows)
      case (rqs)
         call rqs_inverse(n, u, slope, values, rows)
      case (realnvp)
         call realnvp_inverse(u, slope, values, rows)
      end select
   end subroutine spline_inverse

   ! ---- A flow: its cells in turn. `rows` is the number of points in the tile, a multiple of lanes. ----

   subroutine add_log(work, rows)
      type(NAME_workspace), intent(inout) :: work
      integer, intent(in) :: rows
      work%log_det(:rows) = work%log_det(:rows) + log(work%slopes(:rows))
      work%slopes(:rows) = 1
   end subroutine add_log

   ! Map the coordinates that cell c transforms. n_pending: number of slopes in the product.
   subroutine couple(c, map, rows, n_pending, weights, work)
      integer, intent(in) :: c, rows
      procedure(spline) :: map
      integer, intent(inout) :: n_pending
      real(wp), intent(in) :: weights(NAME_n_weights)
      type(NAME_workspace), intent(inout) :: work
      real(dp) :: slope(tile)
      integer :: i, moved, values

      call conditioner(c, rows, weights, work)
      do i = 1, NAME_d - cells(c)%n_inputs
         if (n_pending == slopes_per_log) then
            call add_log(work, rows)
            n_pending = 0
         end if
         moved = split(cells(c)%n_inputs + i, c)
         values = (i - 1) * cells(c)%n_logits + 1
         call activate(cells(c)%kind, cells(c)%n_bins, work%logits(:, values:), rows, work%is_fused)
         call map(cells(c)%kind, cells(c)%n_bins, work%coordinates(:, moved), slope, work%logits(:, values:), rows)
         work%slopes(:rows) = work%slopes(:rows) * slope(:rows)
         n_pending = n_pending + 1
      end do
   end subroutine couple

   subroutine begin(work)
      type(NAME_workspace), intent(inout) :: work
      work%log_det = 0
      work%slopes = 1
      work%is_fused = wp == dp ! log q of float64 networks does not feel the difference
      if (.not. work%is_fused) work%is_fused = has_fused_products()
   end subroutine begin

   ! Add the log of the normal density of the latent coordinates to log_det, where they have one.
   subroutine add_normal(work, rows)
      type(NAME_workspace), intent(inout) :: work
      integer, intent(in) :: rows
      integer :: k

      if (.not. is_normal) return
      do k = 1, NAME_d
         work%log_det(:rows) = work%log_det(:rows) - (half_log_2_pi + 0.5_dp * work%coordinates(:rows, k)**2)
      end do
   end subroutine add_normal

   ! Map the coordinates to latent space by flow number f; log_det is set.
   subroutine flow_forward(f, rows, weights, work)
      integer, intent(in) :: f, rows
      real(wp), intent(in) :: weights(NAME_n_weights)
      type(NAME_workspace), intent(inout) :: work
      integer :: c, n_pending

      call begin(work)
      n_pending = 0
      do c = first_cell(f), first_cell(f + 1) - 1
         call couple(c, spline_forward, rows, n_pending, weights, work)
      end do
      call add_log(work, rows)
      call add_normal(work, rows)
   end subroutine flow_forward

   ! Map latent coordinates by the inverse of flow number f; log_det is that of the forward map.
   subroutine flow_inverse(f, rows, weights, work)
      integer, intent(in) :: f, rows
      real(wp), intent(in) :: weights(NAME_n_weights)
      type(NAME_workspace), intent(inout) :: work
      integer :: c, n_pending

      call begin(work)
      call add_normal(work, rows)
      n_pending = 0
      do c = first_cell(f + 1) - 1, first_cell(f), -1
         call couple(c, spline_inverse, rows, n_pending, weights, work)
      end do
      call add_log(work, rows)
   end subroutine flow_inverse

   ! ---- The density: one flow, or a mixture of n_flows of them and the uniform density. ----

   elemental integer function padded(n)
      integer, intent(in) :: n
      padded = (n + lanes - 1) / lanes * lanes
   end function padded

   elemental real(dp) function logaddexp(a, b)
      real(dp), intent(in) :: a, b
      logaddexp = max(a, b) + log(1 + exp(-abs(a - b)))
   end function logaddexp

   ! Compute log_q of the points of the tile by the forward maps; the coordinates become latent.
   subroutine density(rows, weights, work)
      integer, intent(in) :: rows
      real(wp), intent(in) :: weights(NAME_n_weights)
      type(NAME_workspace), intent(inout) :: work
      integer :: c, k

      do c = 1, n_components
         if (c <= n_flows) then
            do k = 1, NAME_d
               work%coordinates(:rows, k) = (work%points(:rows, k) - location(k)) / width(k)
            end do
            if (.not. is_normal) then
               do k = 1, NAME_d
                  work%coordinates(:rows, k) = min(max(work%coordinates(:rows, k), 0.0_dp), 1.0_dp)
               end do
            end if
            call flow_forward(c, rows, weights, work)
         else ! the uniform density
            work%log_det(:rows) = 0
         end if
         work%log_det(:rows) = work%log_det(:rows) - log_volume + log_share(c)
         if (c == 1) work%log_q(:rows) = work%log_det(:rows)
         if (c > 1) work%log_q(:rows) = logaddexp(work%log_q(:rows), work%log_det(:rows))
      end do
   end subroutine density

   ! Map those of n latent points that belong to component c to points of the box; log_q is that of the flow.
   subroutine from_component(c, n, weights, work)
      integer, intent(in) :: c, n
      real(wp), intent(in) :: weights(NAME_n_weights)
      type(NAME_workspace), intent(inout) :: work
      integer :: k, r, n_rows

      n_rows = 0
      do r = 1, n
         if (work%component(r) == c) then
            n_rows = n_rows + 1
            work%rows(n_rows) = r
         end if
      end do
      if (n_rows == 0) return
      work%rows(n_rows + 1:padded(n_rows)) = work%rows(n_rows)
      do k = 1, NAME_d
         do r = 1, padded(n_rows)
            work%coordinates(r, k) = work%latent(work%rows(r), k)
         end do
      end do
      if (c <= n_flows) call flow_inverse(c, padded(n_rows), weights, work)
      do k = 1, NAME_d
         do r = 1, n_rows
            work%points(work%rows(r), k) = min(max(location(k) + width(k) * work%coordinates(r, k), lower(k)), upper(k))
         end do
      end do
      do r = 1, n_rows
         work%log_q(work%rows(r)) = work%log_det(r) - log_volume
      end do
   end subroutine from_component

   ! ---- Random numbers: NumPy's Philox4x64-10, with a key from NumPy's SeedSequence. Fortran has no unsigned
   ! numbers: they are split so that nothing overflows. ----

   ! a * b modulo 2^32, for 0 <= a, b < 2^32
   elemental integer(int64) function product32(a, b)
      integer(int64), intent(in) :: a, b
      product32 = iand(a * iand(b, mask16) + shiftl(iand(a * shiftr(b, 16), mask16), 16), mask32)
   end function product32

   subroutine hash(value, constant, factor)
      integer(int64), intent(inout) :: value, constant
      integer(int64), intent(in) :: factor
      value = ieor(value, constant)
      constant = product32(constant, factor)
      value = product32(value, constant)
      value = ieor(value, shiftr(value, 16))
   end subroutine hash

   ! SeedSequence(seed).generate_state(2, uint64)
   function key_from_seed(seed) result(key)
      integer(int64), intent(in) :: seed
      integer(int64) :: key(2), pool(4), constant, hashed, mixed
      integer :: i, j

      pool = [iand(seed, mask32), shiftr(seed, 32), 0_int64, 0_int64]
      constant = int(z'43b0d7e5', int64)
      do i = 1, 4
         call hash(pool(i), constant, int(z'931e8875', int64))
      end do
      do i = 1, 4
         do j = 1, 4
            if (i == j) cycle
            hashed = pool(i)
            call hash(hashed, constant, int(z'931e8875', int64))
            mixed = product32(int(z'ca01f9dd', int64), pool(j)) - product32(int(z'4973f715', int64), hashed)
            mixed = iand(mixed + mask32 + 1, mask32)
            pool(j) = ieor(mixed, shiftr(mixed, 16))
         end do
      end do
      constant = int(z'8b51f9dd', int64)
      do i = 1, 4
         call hash(pool(i), constant, int(z'58f38ded', int64))
      end do
      key = [ior(pool(1), shiftl(pool(2), 32)), ior(pool(3), shiftl(pool(4), 32))]
   end function key_from_seed

   ! a + b modulo 2^64
   elemental integer(int64) function sum64(a, b)
      integer(int64), intent(in) :: a, b
      integer(int64) :: low
      low = iand(a, mask32) + iand(b, mask32)
      sum64 = ior(shiftl(shiftr(a, 32) + shiftr(b, 32) + shiftr(low, 32), 32), iand(low, mask32))
   end function sum64

   ! The two halves of a * b, 128 bits: a is split into two numbers of 32 bits, b into four of 16.
   elemental subroutine multiply(a, b, high, low)
      integer(int64), intent(in) :: a, b
      integer(int64), intent(out) :: high, low
      integer(int64) :: a0, a1, b0, b1, b2, b3, t0, t1, t2, t3, t4

      a0 = iand(a, mask32)
      a1 = shiftr(a, 32)
      b0 = iand(b, mask16)
      b1 = iand(shiftr(b, 16), mask16)
      b2 = iand(shiftr(b, 32), mask16)
      b3 = shiftr(b, 48)
      t0 = a0 * b0
      t1 = a0 * b1 + shiftr(t0, 16)
      t2 = a0 * b2 + a1 * b0 + shiftr(t1, 16)
      t3 = a0 * b3 + a1 * b1 + shiftr(t2, 16)
      t4 = a1 * b2 + shiftr(t3, 16)
      low = ior(ior(iand(t0, mask16), shiftl(iand(t1, mask16), 16)), &
         ior(shiftl(iand(t2, mask16), 32), shiftl(iand(t3, mask16), 48)))
      high = sum64(shiftl(a1 * b3, 16), t4)
   end subroutine multiply

   function stream_of(seed, purpose) result(stream)
      integer(int64), intent(in) :: seed, purpose
      type(stream_type) :: stream
      integer(int64), parameter :: steps(2) = [ior(shiftl(int(z'9e3779b9', int64), 32), int(z'7f4a7c15', int64)), &
         ior(shiftl(int(z'bb67ae85', int64), 32), int(z'84caa73b', int64))]
      integer :: i

      stream%keys(:, 1) = key_from_seed(seed)
      do i = 2, 10
         stream%keys(:, i) = sum64(stream%keys(:, i - 1), steps)
      end do
      stream%purpose = purpose
      stream%block = 0
      stream%quad = 0
      stream%numbers = 0
   end function stream_of

   ! Ten rounds of Salmon et al., SC 11 (2011): the counter becomes four random numbers.
   subroutine philox(counter, keys)
      integer(int64), intent(inout) :: counter(4)
      integer(int64), intent(in) :: keys(2, 10)
      integer(int64), parameter :: first = ior(shiftl(int(z'd2e7470e', int64), 32), int(z'e14c6c93', int64))
      integer(int64), parameter :: second = ior(shiftl(int(z'ca5a8263', int64), 32), int(z'95121157', int64))
      integer(int64) :: high(2), low(2)
      integer :: i

      do i = 1, 10
         call multiply(counter(1), first, high(1), low(1))
         call multiply(counter(3), second, high(2), low(2))
         counter = [ieor(ieor(high(2), counter(2)), keys(1, i)), low(2), &
            ieor(ieor(high(1), counter(4)), keys(2, i)), low(1)]
      end do
   end subroutine philox

   ! Latent coordinate of a number that is uniform on [0, 1): itself, or its normal quantile by Wichura's algorithm
   ! AS 241 (Applied Statistics 37 (1988) 477).
   elemental real(dp) function latent_of(uniform)
      real(dp), intent(in) :: uniform
      real(dp) :: u, offset, r, top, bottom

      latent_of = uniform
      if (.not. is_normal) return
      u = max(uniform, 2.0_dp**(-54))
      offset = u - 0.5_dp
      r = 0.425_dp * 0.425_dp - offset * offset
      if (r >= 0) then
         top = ((((((2509.0809287301227_dp * r + 33430.57558358813_dp) * r + 67265.7709270087_dp) * r + &
            45921.95393154987_dp) * r + 13731.69376550946_dp) * r + 1971.5909503065513_dp) * r + &
            133.14166789178438_dp) * r + 3.3871328727963665_dp
         bottom = ((((((5226.495278852854_dp * r + 28729.085735721943_dp) * r + 39307.89580009271_dp) * r + &
            21213.794301586597_dp) * r + 5394.196021424751_dp) * r + 687.1870074920579_dp) * r + &
            42.31333070160091_dp) * r + 1.0_dp
         latent_of = offset * top / bottom
         return
      end if
      r = sqrt(-log(min(u, 1 - u)))
      if (r <= 5) then
         r = r - 1.6_dp
         top = ((((((0.0007745450142783414_dp * r + 0.022723844989269184_dp) * r + 0.2417807251774506_dp) * r + &
            1.2704582524523684_dp) * r + 3.6478483247632045_dp) * r + 5.769497221460691_dp) * r + &
            4.630337846156546_dp) * r + 1.4234371107496835_dp
         bottom = ((((((1.0507500716444169e-09_dp * r + 0.0005475938084995345_dp) * r + 0.015198666563616457_dp) * &
            r + 0.14810397642748008_dp) * r + 0.6897673349851_dp) * r + 1.6763848301838038_dp) * r + &
            2.053191626637759_dp) * r + 1.0_dp
      else
         r = r - 5
         top = ((((((2.0103343992922881e-07_dp * r + 2.7115555687434876e-05_dp) * r + 0.0012426609473880784_dp) &
            * r + 0.026532189526576124_dp) * r + 0.29656057182850487_dp) * r + 1.7848265399172913_dp) * r + &
            5.463784911164114_dp) * r + 6.657904643501103_dp
         bottom = ((((((2.0442631033899397e-15_dp * r + 1.421511758316446e-07_dp) * r + 1.8463183175100548e-05_dp) &
            * r + 0.0007868691311456133_dp) * r + 0.014875361290850615_dp) * r + 0.1369298809227358_dp) * r &
            + 0.599832206555888_dp) * r + 1.0_dp
      end if
      latent_of = sign(top / bottom, offset)
   end function latent_of

   ! Get number i, from 0, uniform on [0, 1), of the generator of a block.
   subroutine draw(u, stream, block, i)
      real(dp), intent(out) :: u
      type(stream_type), intent(inout) :: stream
      integer(int64), intent(in) :: block, i
      integer(int64) :: quad

      quad = i / 4 + 1 ! NumPy counts before it generates
      if (quad /= stream%quad .or. block /= stream%block) then
         stream%quad = quad
         stream%block = block
         stream%numbers = [quad, 0_int64, stream%purpose, block]
         call philox(stream%numbers, stream%keys)
      end if
      u = real(shiftr(stream%numbers(mod(i, 4_int64) + 1), 11), dp) * 2.0_dp**(-53)
   end subroutine draw

   ! ---- What is public. ----

   elemental integer function tile_size(n, done)
      integer, intent(in) :: n, done
      tile_size = min(n - done, tile)
   end function tile_size

   ! Load up to tile points; those outside the bounds are marked and moved to the lower corner.
   subroutine load_points(loaded, points, n, from, to, work_is_outside, status)
      real(dp), intent(out) :: loaded(tile, NAME_d)
      real(dp), intent(in) :: points(:, :), from(NAME_d), to(NAME_d)
      integer, intent(in) :: n
      logical, intent(inout) :: work_is_outside(tile)
      integer, intent(inout) :: status
      integer :: r

      do r = 1, padded(n)
         loaded(r, :) = points(:NAME_d, min(r, n))
         work_is_outside(r) = .not. all(loaded(r, :) >= from .and. loaded(r, :) <= to) ! true for NaN
         if (work_is_outside(r)) then
            loaded(r, :) = from
            status = NAME_outside
         end if
      end do
   end subroutine load_points

   ! Store n points, with NaN for those that are marked.
   subroutine store_points(points, loaded, n, is_outside)
      real(dp), intent(inout) :: points(:, :)
      real(dp), intent(in) :: loaded(tile, NAME_d)
      integer, intent(in) :: n
      logical, intent(in) :: is_outside(tile)
      integer :: r

      do r = 1, n
         points(:NAME_d, r) = loaded(r, :)
         if (is_outside(r)) points(:NAME_d, r) = ieee_value(0.0_dp, ieee_quiet_nan)
      end do
   end subroutine store_points

   subroutine store_log_q(log_q, n, work)
      real(dp), intent(inout) :: log_q(:)
      integer, intent(in) :: n
      type(NAME_workspace), intent(in) :: work
      log_q(:n) = work%log_q(:n)
      where (work%is_outside(:n)) log_q(:n) = ieee_value(0.0_dp, ieee_quiet_nan)
   end subroutine store_log_q

   ! Whether there is room for n points.
   logical function has_room(n, points)
      integer, intent(in) :: n
      real(dp), intent(in) :: points(:, :)
      has_room = n >= 0 .and. size(points, 1) == NAME_d .and. size(points, 2) >= n
   end function has_room

   ! Draw the points first, ..., first + n - 1, from 0, of the sequence that belongs to a seed of at least 0: those of
   ! Python's flow.sample(first + n, seed=seed). Points in any number of calls are thus the same as in one.
   subroutine NAME_sample(seed, first, n, x, log_q, weights, work, status)
      integer(int64), intent(in) :: seed, first
      integer, intent(in) :: n
      real(dp), intent(inout) :: x(:, :), log_q(:)
      real(NAME_real), intent(in) :: weights(NAME_n_weights)
      type(NAME_workspace), intent(inout) :: work
      integer, intent(out) :: status
      type(stream_type) :: points, components
      integer(int64) :: block, i
      real(dp) :: u
      integer :: c, k, m, r, done

      status = NAME_bad_argument
      if (seed < 0 .or. first < 0 .or. .not. has_room(n, x) .or. size(log_q) < n) return
      if (first > huge(first) - n) return
      status = NAME_ok
      points = stream_of(seed, 0_int64)
      components = stream_of(seed, mask32 + 1)
      do done = 0, n - 1, tile
         m = tile_size(n, done)
         do r = 1, m
            block = (first + done + r - 1) / sample_block
            i = mod(first + done + r - 1, int(sample_block, int64))
            do k = 1, NAME_d
               call draw(u, points, block, i * NAME_d + k - 1)
               work%latent(r, k) = latent_of(u)
            end do
            work%component(r) = 1
            if (n_components > 1) then
               call draw(u, components, block, i)
               work%component(r) = 1 + count(u >= upper_share(:n_components - 1))
            end if
            work%is_outside(r) = .false.
         end do
         do c = 1, n_components
            call from_component(c, m, weights, work)
         end do
         if (n_components > 1) then
            do r = m + 1, padded(m)
               work%points(r, :) = work%points(m, :)
            end do
            call density(padded(m), weights, work)
         end if
         call store_points(x(:, done + 1:), work%points, m, work%is_outside)
         call store_log_q(log_q(done + 1:), m, work)
      end do
   end subroutine NAME_sample

   ! Compute log q of n points x of the box.
   subroutine NAME_log_prob(n, x, log_q, weights, work, status)
      integer, intent(in) :: n
      real(dp), intent(in) :: x(:, :)
      real(dp), intent(inout) :: log_q(:)
      real(NAME_real), intent(in) :: weights(NAME_n_weights)
      type(NAME_workspace), intent(inout) :: work
      integer, intent(out) :: status
      integer :: m, done

      status = NAME_bad_argument
      if (.not. has_room(n, x) .or. size(log_q) < n) return
      status = NAME_ok
      do done = 0, n - 1, tile
         m = tile_size(n, done)
         call load_points(work%points, x(:, done + 1:), m, lower, upper, work%is_outside, status)
         call density(padded(m), weights, work)
         call store_log_q(log_q(done + 1:), m, work)
      end do
   end subroutine NAME_log_prob

@LATENT@

   ! Compare with points that Python has computed: whether the flow is the same here, to @TOLERANCE@ in log q.
   subroutine NAME_verify(weights, work, status)
      real(NAME_real), intent(in) :: weights(NAME_n_weights)
      type(NAME_workspace), intent(inout) :: work
      integer, intent(out) :: status
      real(dp) :: points(NAME_d, n_known), log_q(n_known)

      call NAME_sample(known_seed, 0_int64, n_known, points, log_q, weights, work, status)
      status = NAME_wrong_sample
      if (.not. points_agree(points, known_x, width) .or. .not. all(abs(log_q - known_log_q) <= tolerance)) return
      call NAME_log_prob(n_known, known_x, log_q, weights, work, status)
      status = NAME_wrong_log_prob
      if (.not. all(abs(log_q - known_log_q) <= tolerance)) return
@VERIFY_LATENT@
      status = NAME_ok
   end subroutine NAME_verify

   ! Whether points are those that were expected, in units of the sides of their box; false if one is NaN.
   logical function points_agree(found, expected, side)
      real(dp), intent(in) :: found(NAME_d, n_known), expected(NAME_d, n_known), side(NAME_d)
      integer :: r
      points_agree = .true.
      do r = 1, n_known
         points_agree = points_agree .and. all(abs(found(:, r) - expected(:, r)) <= tolerance * side)
      end do
   end function points_agree

   ! Words for a status.
   function NAME_message(status) result(message)
      integer, intent(in) :: status
      character(len=80) :: message

      select case (status)
      case (NAME_ok)
         message = "all is well"
      case (NAME_bad_argument)
         message = "an array is too small, or a number is negative"
      case (NAME_outside)
         message = "points lie outside the box or are not finite: their results are NaN"
      case (NAME_no_file)
         message = "the file of the weights cannot be read"
      case (NAME_wrong_size)
         message = "the file of the weights has the wrong size"
      case (NAME_wrong_sum)
         message = "the file of the weights is not the one that was exported with this source"
      case (NAME_wrong_sample)
         message = "sample differs from Python's"
      case (NAME_wrong_log_prob)
         message = "log_prob differs from Python's"
      case (NAME_wrong_to_latent)
         message = "to_latent differs from Python's"
      case (NAME_wrong_from_latent)
         message = "from_latent differs from Python's"
      case default
         message = "unknown status"
      end select
   end function NAME_message

@LOAD@

end module NAME_module
