/* ---- The file of the weights, and its SHA-256 sum (FIPS 180-4). ---- */

static uint32_t rotated(uint32_t value, int n) { return value >> n | value << (32 - n); }

/* Add a block of 64 bytes to the state of the sum. */
static void add_to_sum(uint32_t state[8], const unsigned char block[64])
{
    static const uint32_t constants[64] = {
        0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
        0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
        0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
        0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
        0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
        0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
        0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
        0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2,
    };
    uint32_t words[64], s[8];
    for (int i = 0; i < 16; i++)
        words[i] = (uint32_t)block[4 * i] << 24 | (uint32_t)block[4 * i + 1] << 16 |
                   (uint32_t)block[4 * i + 2] << 8 | block[4 * i + 3];
    for (int i = 16; i < 64; i++) {
        const uint32_t a = words[i - 15], b = words[i - 2];
        words[i] = words[i - 16] + (rotated(a, 7) ^ rotated(a, 18) ^ a >> 3) + words[i - 7] +
                   (rotated(b, 17) ^ rotated(b, 19) ^ b >> 10);
    }
    memcpy(s, state, sizeof s);
    for (int i = 0; i < 64; i++) {
        const uint32_t first = s[7] + (rotated(s[4], 6) ^ rotated(s[4], 11) ^ rotated(s[4], 25)) +
                               ((s[4] & s[5]) ^ (~s[4] & s[6])) + constants[i] + words[i];
        const uint32_t second = (rotated(s[0], 2) ^ rotated(s[0], 13) ^ rotated(s[0], 22)) +
                                ((s[0] & s[1]) ^ (s[0] & s[2]) ^ (s[1] & s[2]));
        memmove(s + 1, s, 7 * sizeof *s);
        s[4] += first;
        s[0] = first + second;
    }
    for (int i = 0; i < 8; i++)
        state[i] += s[i];
}

/* Read the weights, which the file has as little-endian IEEE numbers, and compute the sum of the file. */
static int read_weights(real *weights, uint32_t state[8], FILE *file)
{
    enum { PER_BLOCK = 64 / sizeof(real) };
    const uint64_t n_bits = (uint64_t)NAME_N_WEIGHTS * sizeof(real) * 8;
    unsigned char block[64];
    size_t n_bytes;
    long n = 0;
    do {
        n_bytes = fread(block, 1, sizeof block, file);
        if (n_bytes % sizeof(real) || (long)(n_bytes / sizeof(real)) > NAME_N_WEIGHTS - n)
            return NAME_WRONG_SIZE;
        for (size_t i = 0; i < n_bytes / sizeof(real); i++) {
            real_bits bits = 0;
            for (size_t k = sizeof(real); k-- > 0;)
                bits = bits << 8 | block[i * sizeof(real) + k];
            memcpy(&weights[n++], &bits, sizeof bits);
        }
        if (n_bytes == sizeof block)
            add_to_sum(state, block);
    } while (n_bytes == sizeof block);
    if (n != NAME_N_WEIGHTS || ferror(file))
        return ferror(file) ? NAME_NO_FILE : NAME_WRONG_SIZE;
    memset(block + n_bytes, 0, sizeof block - n_bytes);
    block[n_bytes] = 0x80;
    if (n_bytes >= 56) { /* no place left for the length */
        add_to_sum(state, block);
        memset(block, 0, sizeof block);
    }
    for (int i = 0; i < 8; i++)
        block[56 + i] = (unsigned char)(n_bits >> (56 - 8 * i));
    add_to_sum(state, block);
    return NAME_OK;
}

int NAME_load(const char *path, real *weights)
{
    uint32_t state[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                         0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
    FILE *file;
    int status;
    if (!path || !weights)
        return NAME_BAD_ARGUMENT;
    file = fopen(path, "rb");
    status = file ? read_weights(weights, state, file) : NAME_NO_FILE;
    if (file)
        fclose(file);
    if (status == NAME_OK && memcmp(state, expected_sum, sizeof state) != 0)
        status = NAME_WRONG_SUM;
    for (long i = 0; status != NAME_OK && i < NAME_N_WEIGHTS; i++)
        weights[i] = NAN; /* nothing that is drawn from a damaged flow looks like a number */
    return status;
}
