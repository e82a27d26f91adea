# The Python extension qflare._native._qflare: CFFI API mode, one abi3 library for Python 3.11 and up.

include_guard(GLOBAL)

# Headers only: the stable ABI needs no libpython.
find_package(Python 3.11 REQUIRED COMPONENTS Interpreter Development.Module)

set(generated "${CMAKE_CURRENT_BINARY_DIR}/_qflare.c")
set(header "${CMAKE_CURRENT_SOURCE_DIR}/csrc/qflare.h")
set(generator "${CMAKE_CURRENT_SOURCE_DIR}/csrc/cmake/generate_border.py")
add_custom_command(
    OUTPUT "${generated}"
    COMMAND "${Python_EXECUTABLE}" "${generator}" "${header}" "${generated}"
    DEPENDS "${generator}" "${header}"
    COMMENT "CFFI: generating the border from qflare.h"
    VERBATIM)

qflare_add_core(qflare_core)

add_library(_qflare MODULE "${generated}")
target_link_libraries(_qflare PRIVATE qflare_core Python::Module)
target_compile_definitions(_qflare PRIVATE Py_LIMITED_API=0x030B0000)
set_target_properties(_qflare PROPERTIES PREFIX "" SUFFIX ".abi3.so" LIBRARY_OUTPUT_DIRECTORY "${CMAKE_CURRENT_BINARY_DIR}")
if(CMAKE_SYSTEM_NAME STREQUAL "Linux")
    # Of liboqs's archive, nothing may become visible either; and what is unused is left out.
    target_link_options(_qflare PRIVATE "LINKER:--exclude-libs,ALL" "LINKER:--gc-sections" "LINKER:-z,relro,-z,now")
    if(CMAKE_BUILD_TYPE STREQUAL "Release")
        target_link_options(_qflare PRIVATE "LINKER:--strip-debug")
    endif()
endif()

# A shared liboqs outside the loader's own folders is found where it was linked.
set_target_properties(_qflare PROPERTIES INSTALL_RPATH_USE_LINK_PATH ON)

install(TARGETS _qflare LIBRARY DESTINATION qflare/_native)
if(QFLARE_LIBOQS_LICENSES)
    # scikit-build-core: into the .dist-info of the wheel.
    install(DIRECTORY "${QFLARE_LIBOQS_LICENSES}/" DESTINATION "${SKBUILD_METADATA_DIR}/licenses/liboqs")
endif()
