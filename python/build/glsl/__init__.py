"""Translates the kernel bodies (cpp/kernels/gpu/*.h) and the format's headers to GLSL.

The bodies are C++ of a plain kind: functions, structs of numbers, loops, pointers that are
read and written but never stored in memory, templates over a number or a source of numbers.
GLSL has neither pointers nor templates, so

    global pointers      become 64-bit addresses (GL_EXT_buffer_reference)
    shared pointers      become indices into one array of words
    pointers to locals   become arrays passed `in` or `inout`
    templates            become one function for every set of arguments that is called

and C's conversions, which GLSL does not make, are written out. Whatever else the bodies may
come to hold is refused with its place.
"""
