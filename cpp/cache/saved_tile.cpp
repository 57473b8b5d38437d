#include "cache/saved_tile.h"

#include "format/xq_format.h"

#include <algorithm>
#include <limits>

namespace {

constexpr uint32_t ALL = 0xFFFFFFFFu;
constexpr llama_pos MAX_POSITION = 1 << 30; // what is added to a position, such as the window, stays an int

[[noreturn]] void damaged(const char * what) { throw std::runtime_error(std::string("it is damaged: ") + what); }

template <class F> void for_cells(uint32_t cells, F && f) {
    for (int c = 0; c < XQ_TILE; ++c) {
        if (cells >> c & 1) { f(c); }
    }
}

// Key codes: a lane is a token, its words are its own.
template <class Io> void move_keys(Io & io, const xq_side & side, uint32_t cells, uint32_t * codes) {
    for_cells(cells, [&](int lane) {
        for (int w = 0; w < xq_side_words(side)/XQ_LANES; ++w) {
            io.move(codes[w*XQ_LANES + lane]);
        }
    });
}

// Value codes: a row is a token. Its codes are saved as those of a lane are stored, lane by lane in the row's place.
template <class Io> void move_values(Io & io, const xq_side & side, uint32_t cells, uint32_t * codes) {
    for_cells(cells, [&](int row) {
        uint32_t * plane = codes;
        for (int p = 0; p < xq_n_planes(side.bits); ++p) {
            const int bits = xq_plane_bits(side.bits, p);
            uint32_t packed[4] = {0};
            uint32_t * words = plane + (size_t) xq_code_word(row, bits)*XQ_LANES;
            for (int l = 0; l < XQ_LANES && !Io::reading; ++l) {
                uint32_t & to = packed[xq_code_word(l, bits)];
                to = xq_code_put(to, l, bits, xq_code_get(words[l], row, bits));
            }
            for (int w = 0; w < bits; ++w) {
                io.move(packed[w]);
            }
            for (int l = 0; l < XQ_LANES && Io::reading; ++l) {
                words[l] = xq_code_put(words[l], row, bits, xq_code_get(packed[xq_code_word(l, bits)], l, bits));
            }
            plane += (size_t) xq_plane_words(side.rows, bits)*XQ_LANES;
        }
    });
}

// Scales and zero points of values are per token: those of other cells become 0.
void mask_value_meta(const xq_side & side, uint32_t cells, uint8_t * meta, size_t size) {
    const size_t block = xq_meta_bytes(side.rows, side.meta);
    for (uint8_t * end = meta + size; meta < end; meta += block) {
        for_cells(~cells, [&](int row) {
            switch (side.meta) {
                case XQ_META_F16:
                    std::memset(meta + 2*row, 0, 2);
                    std::memset(meta + 2*(side.rows + row), 0, 2);
                    break;
                case XQ_META_Q8:
                    meta[XQ_META_Q8_HEAD + row] = meta[XQ_META_Q8_HEAD + side.rows + row] = 0;
                    break;
                default:
                    meta[XQ_LOG_HEAD + row] = 0;
            }
        });
    }
}

template <class Io, class V> void move_all(Io & io, V & v) { io.bytes(v.data(), v.size()*sizeof(v[0])); }

template <class Io> void move_codes(Io & io, const xq_layer & l, uint32_t cells, xq_tile_codes & codes) {
    const auto own = [&](const xq_side & side, std::vector<uint32_t> & v, bool keys) {
        if (cells == ALL) {
            return move_all(io, v);
        }
        for (size_t at = 0; at < v.size(); at += xq_side_words(side)) {
            keys ? move_keys(io, side, cells, v.data() + at) : move_values(io, side, cells, v.data() + at);
        }
    };
    if (l.owns_k()) { own(l.plan.k, codes.k, true); }
    if (l.owns_v()) { own(l.plan.v, codes.v, false); }
    mask_value_meta(l.plan.v, cells, codes.v_meta.data(), codes.v_meta.size());
    move_all(io, codes.k_meta);
    move_all(io, codes.v_meta);
}

template <class Io> void move_rows(Io & io, const xq_layer & l, uint32_t cells, xq_tile_rows & rows) {
    const size_t k = l.node.k_row, v = l.node.v_row;
    for_cells(cells, [&](int c) {
        io.bytes(rows.k.data() + c*k, k*sizeof(uint16_t));
        io.bytes(rows.v.data() + c*v, v*sizeof(uint16_t));
    });
}

template <class Io>
void move_tile(Io & io, const xq_layers & layers, xq_saved_tile & tile, bool whole, uint32_t n_seq_max) {
    io.move(tile.stream);
    io.move(tile.tile);
    io.move(tile.cells);
    io.move(tile.sealed);
    if (Io::reading) {
        if (tile.cells == 0 || tile.sealed > 1) { damaged("a tile without cells"); }
        for_cells(tile.cells, [&](int) { tile.of.emplace_back(); });
    }
    for (auto & cell : tile.of) {
        io.move(cell.pos);
        io.move(cell.ext);
        if (cell.pos < 0 || cell.pos >= MAX_POSITION) { damaged("a position below 0 or of 2^30 and more"); }
        if (!whole) {
            continue;
        }
        uint32_t n = (uint32_t) cell.seqs.size();
        io.move(n);
        if (n == 0 || n > LLAMA_MAX_SEQ) { damaged("a cell of no sequence"); }
        cell.seqs.resize(n);
        for (auto & s : cell.seqs) {
            io.move(s);
            if (Io::reading && (s < 0 || s >= (int32_t) n_seq_max)) {
                throw std::runtime_error("it names sequence " + std::to_string(s) + " and this context has " +
                                         std::to_string(n_seq_max));
            }
        }
    }
    for (size_t i = 0; i < layers.size(); ++i) {
        if (tile.sealed) {
            if (Io::reading) { tile.codes.push_back(xq_empty_codes(layers[i].node)); }
            move_codes(io, layers[i], tile.cells, tile.codes[i]);
        } else {
            if (Io::reading) { tile.rows.push_back(xq_empty_rows(layers[i].node)); }
            move_rows(io, layers[i], tile.cells, tile.rows[i]);
        }
    }
}

} // namespace

void xq_sort_by_position(xq_saved_tiles & tiles) {
    const auto first = [](const xq_saved_tile & t) {
        int32_t pos = std::numeric_limits<int32_t>::max();
        for (const auto & cell : t.of) {
            pos = std::min(pos, cell.pos);
        }
        return pos;
    };
    std::stable_sort(tiles.begin(), tiles.end(), [&](const auto & a, const auto & b) { return first(a) < first(b); });
}

void xq_put_tile(xq_section_writer & out, const xq_layers & layers, xq_saved_tile & tile, bool whole) {
    move_tile(out, layers, tile, whole, 0);
}

xq_saved_tile xq_take_tile(xq_section_reader & in, const xq_layers & layers, bool whole, uint32_t n_seq_max) {
    xq_saved_tile tile;
    move_tile(in, layers, tile, whole, n_seq_max);
    if (in.left() > 0) {
        damaged("a section is too long");
    }
    return tile;
}

size_t xq_saved_tile_limit(const xq_layers & layers) {
    size_t codes = 0, rows = 0;
    for (const auto & l : layers) {
        const size_t heads = l.plan.shape.n_head_kv;
        codes += heads*(4*xq_head_words(l.plan.k) + xq_head_meta_bytes(l.plan.k));
        codes += heads*(4*xq_head_words(l.plan.v) + xq_head_meta_bytes(l.plan.v));
        rows  += XQ_TILE*(l.node.k_row + l.node.v_row)*sizeof(uint16_t);
    }
    return 16 + XQ_TILE*(8 + sizeof(llama_kv_cell_ext) + 4*LLAMA_MAX_SEQ) + std::max(codes, rows);
}

xq_tile_rows xq_rows_of(const xq_layers & layers, const xq_saved_tile & tile, size_t layer) {
    if (!tile.sealed) {
        return tile.rows[layer];
    }
    const auto leader = [&](int il) -> const xq_tile_codes & {
        const auto is_it = [il](const xq_layer & l) { return l.plan.shape.il == il; };
        return tile.codes[std::find_if(layers.begin(), layers.end(), is_it) - layers.begin()];
    };
    xq_tile_codes codes = tile.codes[layer];
    codes.k = leader(layers[layer].plan.k_leader).k;
    codes.v = leader(layers[layer].plan.v_leader).v;
    return xq_read_back(layers[layer].node, codes);
}

xq_saved_tiles xq_merge_tiles(const xq_layers & layers, const xq_saved_tiles & tiles) {
    struct place {
        const xq_saved_tile * from;
        int cell, nth; // among the tile's cells, among those that it has
        int32_t pos() const { return from->of[nth].pos; }
    };
    std::vector<place> order;
    for (const auto & t : tiles) {
        int nth = 0;
        for_cells(t.cells, [&](int c) { order.push_back({&t, c, nth++}); });
    }
    std::stable_sort(order.begin(), order.end(), [](const place & a, const place & b) { return a.pos() < b.pos(); });
    xq_saved_tiles merged((order.size() + XQ_TILE - 1)/XQ_TILE);
    for (size_t i = 0; i < order.size(); ++i) {
        xq_saved_tile & to = merged[i/XQ_TILE];
        to.stream = order[i].from->stream;
        to.cells |= 1u << i%XQ_TILE;
        to.of.push_back(order[i].from->of[order[i].nth]);
    }
    for (size_t il = 0; il < layers.size(); ++il) {
        const size_t k = layers[il].node.k_row, v = layers[il].node.v_row;
        std::vector<xq_tile_rows> read;
        for (const auto & t : tiles) {
            read.push_back(xq_rows_of(layers, t, il));
        }
        for (auto & m : merged) {
            m.rows.push_back(xq_empty_rows(layers[il].node));
        }
        for (size_t i = 0; i < order.size(); ++i) {
            const xq_tile_rows & from = read[order[i].from - tiles.data()];
            xq_tile_rows & to = merged[i/XQ_TILE].rows[il];
            std::copy_n(from.k.begin() + order[i].cell*k, k, to.k.begin() + i%XQ_TILE*k);
            std::copy_n(from.v.begin() + order[i].cell*v, v, to.v.begin() + i%XQ_TILE*v);
        }
    }
    return merged;
}
