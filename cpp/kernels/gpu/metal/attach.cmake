# Our kernels into ggml's Metal backend, target ggml-metal. Its sources are below `tree`/ggml/src; Python_EXECUTABLE runs
# the build helper.
function(xq_attach_metal tree)
    get_filename_component(cpp ${CMAKE_CURRENT_FUNCTION_LIST_DIR}/../../.. ABSOLUTE)
    set(flatten ${cpp}/../python/build/flatten.py)
    set(metal kernels/gpu/metal/attend.metal kernels/gpu/metal/batch.metal kernels/gpu/metal/seal.metal)
    set(strings ${CMAKE_BINARY_DIR}/xq_metal_strings.cpp)
    file(GLOB headers CONFIGURE_DEPENDS ${cpp}/format/*.h ${cpp}/kernels/gpu/*.h ${cpp}/kernels/gpu/metal/*.h ${cpp}/kernels/gpu/metal/*.metal)
    add_custom_command(
        OUTPUT ${strings}
        COMMAND ${Python_EXECUTABLE} -B ${flatten} ${cpp} ${metal} --out ${strings}
        DEPENDS ${flatten} ${headers}
        COMMENT "Putting the packed Metal kernels into strings"
        VERBATIM)
    # Upstream's directory does not see the rule: a file that another directory generates needs a target.
    add_custom_target(xq_metal_strings DEPENDS ${strings})
    add_library(xq_metal OBJECT ${strings} ${cpp}/kernels/gpu/metal/kernels.cpp ${cpp}/kernels/gpu/metal/nodes.cpp)
    add_dependencies(xq_metal xq_metal_strings)
    target_include_directories(xq_metal PRIVATE ${cpp} ${tree}/ggml/include ${tree}/ggml/src ${tree}/ggml/src/ggml-metal)
    target_compile_features(xq_metal PRIVATE cxx_std_17)
    target_compile_options(xq_metal PRIVATE -Wall -Wextra)
    set_target_properties(xq_metal PROPERTIES POSITION_INDEPENDENT_CODE ON)
    target_include_directories(ggml-metal PRIVATE ${cpp} ${tree}/ggml/src/ggml-metal)
    target_sources(ggml-metal PRIVATE $<TARGET_OBJECTS:xq_metal>)
endfunction()
