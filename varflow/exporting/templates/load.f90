   ! ---- The file of the weights, and its SHA-256 sum (FIPS 180-4): words of 32 bits in integers of 64. ----

   elemental integer(int64) function rotated(word, n)
      integer(int64), intent(in) :: word
      integer, intent(in) :: n
      rotated = iand(ior(shiftr(word, n), shiftl(word, 32 - n)), mask32)
   end function rotated

   ! Add a block of bytes to the state of the sum.
   subroutine add_to_sum(state, block)
      integer(int64), intent(inout) :: state(8)
      integer(int8), intent(in) :: block(64)
      integer(int64), parameter :: constants(64) = [ &
         int(z'428a2f98', int64), int(z'71374491', int64), int(z'b5c0fbcf', int64), int(z'e9b5dba5', int64), &
         int(z'3956c25b', int64), int(z'59f111f1', int64), int(z'923f82a4', int64), int(z'ab1c5ed5', int64), &
         int(z'd807aa98', int64), int(z'12835b01', int64), int(z'243185be', int64), int(z'550c7dc3', int64), &
         int(z'72be5d74', int64), int(z'80deb1fe', int64), int(z'9bdc06a7', int64), int(z'c19bf174', int64), &
         int(z'e49b69c1', int64), int(z'efbe4786', int64), int(z'0fc19dc6', int64), int(z'240ca1cc', int64), &
         int(z'2de92c6f', int64), int(z'4a7484aa', int64), int(z'5cb0a9dc', int64), int(z'76f988da', int64), &
         int(z'983e5152', int64), int(z'a831c66d', int64), int(z'b00327c8', int64), int(z'bf597fc7', int64), &
         int(z'c6e00bf3', int64), int(z'd5a79147', int64), int(z'06ca6351', int64), int(z'14292967', int64), &
         int(z'27b70a85', int64), int(z'2e1b2138', int64), int(z'4d2c6dfc', int64), int(z'53380d13', int64), &
         int(z'650a7354', int64), int(z'766a0abb', int64), int(z'81c2c92e', int64), int(z'92722c85', int64), &
         int(z'a2bfe8a1', int64), int(z'a81a664b', int64), int(z'c24b8b70', int64), int(z'c76c51a3', int64), &
         int(z'd192e819', int64), int(z'd6990624', int64), int(z'f40e3585', int64), int(z'106aa070', int64), &
         int(z'19a4c116', int64), int(z'1e376c08', int64), int(z'2748774c', int64), int(z'34b0bcb5', int64), &
         int(z'391c0cb3', int64), int(z'4ed8aa4a', int64), int(z'5b9cca4f', int64), int(z'682e6ff3', int64), &
         int(z'748f82ee', int64), int(z'78a5636f', int64), int(z'84c87814', int64), int(z'8cc70208', int64), &
         int(z'90befffa', int64), int(z'a4506ceb', int64), int(z'bef9a3f7', int64), int(z'c67178f2', int64)]
      integer(int64) :: bytes(64), words(64), s(8), first, second
      integer :: i

      bytes = iand(int(block, int64), 255_int64)
      do i = 1, 16
         words(i) = ior(ior(shiftl(bytes(4 * i - 3), 24), shiftl(bytes(4 * i - 2), 16)), &
            ior(shiftl(bytes(4 * i - 1), 8), bytes(4 * i)))
      end do
      do i = 17, 64
         first = ieor(ieor(rotated(words(i - 15), 7), rotated(words(i - 15), 18)), shiftr(words(i - 15), 3))
         second = ieor(ieor(rotated(words(i - 2), 17), rotated(words(i - 2), 19)), shiftr(words(i - 2), 10))
         words(i) = iand(words(i - 16) + first + words(i - 7) + second, mask32)
      end do
      s = state
      do i = 1, 64
         first = s(8) + ieor(ieor(rotated(s(5), 6), rotated(s(5), 11)), rotated(s(5), 25)) &
            + ieor(iand(s(5), s(6)), iand(not(s(5)), s(7))) + constants(i) + words(i)
         second = ieor(ieor(rotated(s(1), 2), rotated(s(1), 13)), rotated(s(1), 22)) &
            + ieor(ieor(iand(s(1), s(2)), iand(s(1), s(3))), iand(s(2), s(3)))
         s = [iand(first + second, mask32), s(1:3), iand(s(4) + first, mask32), s(5:7)]
      end do
      state = iand(state + s, mask32)
   end subroutine add_to_sum

   ! Read the weights of the networks, which all subroutines are given, from the file NAME.bin that belongs to this
   ! source: its size and its SHA-256 sum are compared. If the status is not NAME_ok, the weights are NaN.
   subroutine NAME_load(path, weights, status)
      character(len=*), intent(in) :: path
      real(NAME_real), intent(out) :: weights(NAME_n_weights)
      integer, intent(out) :: status
      integer :: unit, error
      integer(int64) :: n_bytes

      weights = ieee_value(0.0_wp, ieee_quiet_nan)
      status = NAME_no_file
      open (newunit=unit, file=path, access="stream", form="unformatted", status="old", action="read", iostat=error)
      if (error /= 0) return
      inquire (unit=unit, size=n_bytes)
      if (n_bytes == int(NAME_n_weights, int64) * real_size) then
         call read_weights(unit, weights, status)
      else
         status = NAME_wrong_size
      end if
      close (unit)
      if (status /= NAME_ok) weights = ieee_value(0.0_wp, ieee_quiet_nan)
   end subroutine NAME_load

   ! Read the weights, which the file has as little-endian IEEE numbers, and compare the sum of the file.
   subroutine read_weights(unit, weights, status)
      integer, intent(in) :: unit
      real(NAME_real), intent(inout) :: weights(NAME_n_weights)
      integer, intent(out) :: status
      integer(int8) :: block(64)
      integer(int64) :: state(8), n_bits
      integer :: i, k, n, n_bytes, error

      state = [ &
         int(z'6a09e667', int64), int(z'bb67ae85', int64), int(z'3c6ef372', int64), int(z'a54ff53a', int64), &
         int(z'510e527f', int64), int(z'9b05688c', int64), int(z'1f83d9ab', int64), int(z'5be0cd19', int64)]
      n = 0
      do
         n_bytes = min(64, (NAME_n_weights - n) * real_size)
         read (unit, iostat=error) block(:n_bytes)
         if (error /= 0) then
            status = NAME_no_file
            return
         end if
         do i = 1, n_bytes, real_size
            n = n + 1
            weights(n) = transfer(in_native_order(block(i:i + real_size - 1)), weights(n))
         end do
         if (n_bytes < 64) exit
         call add_to_sum(state, block)
      end do
      block(n_bytes + 1:) = 0
      block(n_bytes + 1) = -127_int8 - 1_int8 ! a bit, and zeros
      if (n_bytes >= 56) then ! no place left for the length
         call add_to_sum(state, block)
         block = 0
      end if
      n_bits = int(NAME_n_weights, int64) * real_size * 8
      do i = 1, 8
         k = int(iand(shiftr(n_bits, 64 - 8 * i), 255_int64))
         block(56 + i) = int(merge(k - 256, k, k > 127), int8)
      end do
      call add_to_sum(state, block)
      status = merge(NAME_ok, NAME_wrong_sum, all(state == expected_sum))
   end subroutine read_weights

   pure function in_native_order(bytes) result(ordered)
      integer(int8), intent(in) :: bytes(real_size)
      integer(int8) :: ordered(real_size), first(4)
      first = transfer(1_int32, first)
      ordered = bytes
      if (first(1) /= 1) ordered = bytes(real_size:1:-1)
   end function in_native_order
