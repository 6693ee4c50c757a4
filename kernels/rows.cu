// LayerNorm and RMSNorm with a residual, weight and bias: see rows.cuh.
#include "rows.cuh"

using namespace wn;

WN_ROWS_KERNELS(WN_DEFINE)
