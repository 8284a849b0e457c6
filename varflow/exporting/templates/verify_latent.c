    NAME_to_latent(N_KNOWN, known_x, points, log_q, weights, work);
    if (!agree(points, known_z, N_KNOWN * NAME_D, TOLERANCE) || !agree(log_q, known_log_q, N_KNOWN, TOLERANCE))
        return NAME_WRONG_TO_LATENT;
    NAME_from_latent(N_KNOWN, known_z, points, log_q, weights, work);
    if (!points_agree(points, known_x) || !agree(log_q, known_log_q, N_KNOWN, TOLERANCE))
        return NAME_WRONG_FROM_LATENT;
