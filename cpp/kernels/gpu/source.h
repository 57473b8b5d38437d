// Where the numbers of a strip come from when it is sealed: xqg_at(source, row, lane).
#pragma once

#include "kernels/gpu/device.h"

// Whether a lane counts whose number is v: it holds data, and that is finite.
XQ_BODY bool xqg_has_data(float v, uint32_t lane_mask, int lane) { return (lane_mask >> lane & 1u) != 0 && xq_is_finite(v) != 0; }

// Rows are channels, the first `rows` of them there, lanes the page's tokens.
struct xqg_page_keys { XQ_GLOBAL const uint16_t * page; xqg_size ld; int rows; };
XQ_BODY float xqg_at(xqg_page_keys s, int row, int lane) { return row < s.rows ? xqg_half(s.page[lane*s.ld + row]) : 0.0f; }

// Rows are the page's tokens, lanes channels, the first `lanes` of them valid.
struct xqg_page_values { XQ_GLOBAL const uint16_t * page; xqg_size ld; int lanes; };
XQ_BODY float xqg_at(xqg_page_values s, int row, int lane) { return lane < s.lanes ? xqg_half(s.page[row*s.ld + lane]) : 0.0f; }

// f32 as the strip has it.
struct xqg_plain { XQ_GLOBAL const float * x; };
XQ_BODY float xqg_at(xqg_plain s, int row, int lane) { return s.x[row*XQ_LANES + lane]; }
