/* The functions of CUDA's libraries that candle-core links. What it calls to open a device succeeds, and does nothing. */

int cublasCreate_v2(void **handle) {
    *handle = handle;
    return 0;
}

int cublasDestroy_v2(void *handle) {
    (void)handle;
    return 0;
}

int cublasSetStream_v2(void *handle, void *stream) {
    (void)handle, (void)stream;
    return 0;
}

int curandCreateGenerator(void **generator, int type) {
    (void)type;
    *generator = generator;
    return 0;
}

int curandDestroyGenerator(void *generator) {
    (void)generator;
    return 0;
}

int curandSetPseudoRandomGeneratorSeed(void *generator, unsigned long long seed) {
    (void)generator, (void)seed;
    return 0;
}

int curandSetStream(void *generator, void *stream) {
    (void)generator, (void)stream;
    return 0;
}

/* What would compute fails. */

enum { NOT_SUPPORTED = 15 };

int cublasDgemmStridedBatched(void) {
    return NOT_SUPPORTED;
}

int cublasGemmStridedBatchedEx(void) {
    return NOT_SUPPORTED;
}

int curandGenerateNormal(void) {
    return NOT_SUPPORTED;
}

int curandGenerateNormalDouble(void) {
    return NOT_SUPPORTED;
}

int curandGenerateUniform(void) {
    return NOT_SUPPORTED;
}

int curandGenerateUniformDouble(void) {
    return NOT_SUPPORTED;
}
