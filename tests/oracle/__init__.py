"""An independent model of the packed format in numpy.

Written from the comments of cpp/format, not from its code, and with other
means: bit arrays instead of shifts, whole matrices instead of loops, float64
where precision is not part of the format. Slow and plain; tests trust it.
"""
