// Attention for many query rows on Metal, by head dim of values. A text of its own: a device whose compiler refuses it
// still has the other kernels.
#include "kernels/gpu/attend_batch.h"

#include "kernels/gpu/metal/entry.h"

XQG_ATTEND(batch_64, xqg_attend_batch<4>)
XQG_ATTEND(batch_128, xqg_attend_batch<8>)
XQG_ATTEND(batch_256, xqg_attend_batch<16>)
