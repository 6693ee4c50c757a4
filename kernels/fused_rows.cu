// Rows with whatever else can be around them, GroupNorm and InstanceNorm in NCHW, and rows that are too long to be held: see
// rows.cuh.
#include "rows.cuh"

using namespace wn;

WN_FUSED_ROWS_KERNELS(WN_DEFINE)
