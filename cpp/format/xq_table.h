// The tile table: one int32 graph input per micro-batch, shared by all layers, that says where every tile's
// rows live and what to seal. Written by cache/tiles.cpp, read by the kernels of every backend.
//
//   [0] first stream of the micro-batch   [1] tiles per stream   [2] offset of the seal list   [3] its length
//   [XQ_TABLE_HEAD ...]      position of every query token
//   then per stream and tile XQ_TILE_INTS: page, from
//   then per entry of the seal list XQ_SEAL_INTS: stream, tile, page, mask of the cells that hold data
//
// A query at position p reads the tile packed if the tile is sealed and p >= from, else from its page. Which
// form a query sees depends only on its own position, never on how the prompt was cut into micro-batches.
#ifndef XQ_TABLE_H
#define XQ_TABLE_H

#include "format/xq_format.h"

#define XQ_TABLE_HEAD 8
#define XQ_TILE_INTS  2
#define XQ_SEAL_INTS  4
#define XQ_NOT_SEALED 0x7fffffff  // `from` of a tile without codes

// How a query at position pos reads a tile: 0 not at all, 1 from its page, 2 packed.
#define XQ_READ_NONE  0
#define XQ_READ_PAGE  1
#define XQ_READ_CODES 2
XQ_FN int xq_tile_read(int page, int from, int pos) {
    if (from != XQ_NOT_SEALED && (pos >= from || page < 0)) {
        return XQ_READ_CODES;
    }
    return page >= 0 ? XQ_READ_PAGE : XQ_READ_NONE;
}

XQ_FN int xq_table_tiles_at(int n_tokens) { return XQ_TABLE_HEAD + n_tokens; }
XQ_FN int xq_table_seals_at(int n_tokens, int n_stream, int n_tiles) {
    return xq_table_tiles_at(n_tokens) + n_stream * n_tiles * XQ_TILE_INTS;
}

#endif
