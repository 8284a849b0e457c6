      call NAME_to_latent(n_known, known_x, points, log_q, weights, work, status)
      status = NAME_wrong_to_latent
      if (.not. points_agree(points, known_z, latent_side) .or. .not. all(abs(log_q - known_log_q) <= tolerance)) return
      call NAME_from_latent(n_known, known_z, points, log_q, weights, work, status)
      status = NAME_wrong_from_latent
      if (.not. points_agree(points, known_x, width) .or. .not. all(abs(log_q - known_log_q) <= tolerance)) return
