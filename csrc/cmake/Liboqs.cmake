# Find liboqs: an installed one first, else the pinned source.  Makes the target `qflare_liboqs`.
#
#   QFLARE_LIBOQS_ROOT   only this installation (a prefix with include/oqs and lib)
#   QFLARE_LIBOQS        auto (default) | installed | source
#
# Sets QFLARE_LIBOQS_ORIGIN (text for qflare.about()), QFLARE_LIBOQS_LICENSES (folder or empty) and
# QFLARE_HAVE_KEYPAIR_DERAND, QFLARE_HAVE_ENCAPS_DERAND, QFLARE_HAVE_DECAPS_CHECK.

include_guard(GLOBAL)
include(LiboqsProbe)
include(LiboqsSource)

set(QFLARE_LIBOQS_ROOT "" CACHE PATH "Prefix of the liboqs to use")
set(QFLARE_LIBOQS "auto" CACHE STRING "Where liboqs comes from: auto, installed or source")
set_property(CACHE QFLARE_LIBOQS PROPERTY STRINGS auto installed source)

find_package(Threads REQUIRED)

# Take the candidate if it can do what we need; else remember why not.
macro(_qflare_consider label libraries includes)
    qflare_probe_liboqs(probe "${libraries}" "${includes}")
    if(probe_OK)
        set(QFLARE_LIBOQS_ORIGIN "${label}")
        set(_qflare_libraries "${libraries}")
        set(_qflare_includes "${includes}")
        set(QFLARE_HAVE_KEYPAIR_DERAND ${probe_HAVE_KEYPAIR_DERAND})
        set(QFLARE_HAVE_ENCAPS_DERAND ${probe_HAVE_ENCAPS_DERAND})
        set(QFLARE_HAVE_DECAPS_CHECK ${probe_HAVE_DECAPS_CHECK})
    else()
        list(APPEND _qflare_tried "${label}: does not offer ${probe_MISSING}")
    endif()
endmacro()

set(QFLARE_LIBOQS_ORIGIN "")
set(QFLARE_LIBOQS_LICENSES "")
set(_qflare_tried "")

if(QFLARE_LIBOQS_ROOT)
    find_library(QFLARE_ROOT_LIBRARY NAMES liboqs.a oqs PATHS "${QFLARE_LIBOQS_ROOT}"
        PATH_SUFFIXES lib lib64 "lib/${CMAKE_LIBRARY_ARCHITECTURE}" NO_DEFAULT_PATH NO_CACHE)
    if(NOT QFLARE_ROOT_LIBRARY OR NOT EXISTS "${QFLARE_LIBOQS_ROOT}/include/oqs/oqs.h")
        message(FATAL_ERROR "QFLARE_LIBOQS_ROOT=${QFLARE_LIBOQS_ROOT} holds no liboqs: expected include/oqs/oqs.h and "
            "lib/liboqs.a or lib/liboqs.so there. Correct the path, or leave it out to let the build find or fetch liboqs.")
    endif()
    _qflare_consider("installed, QFLARE_LIBOQS_ROOT" "${QFLARE_ROOT_LIBRARY}" "${QFLARE_LIBOQS_ROOT}/include")
    if(NOT QFLARE_LIBOQS_ORIGIN)
        message(FATAL_ERROR "The liboqs in QFLARE_LIBOQS_ROOT=${QFLARE_LIBOQS_ROOT} does not offer ${probe_MISSING}. Use "
            "liboqs 0.13 or newer with ML-KEM-1024, ML-DSA-44 and ML-DSA-87, or leave the option out to let the build fetch one.")
    endif()
endif()

if(NOT QFLARE_LIBOQS_ORIGIN AND NOT QFLARE_LIBOQS STREQUAL "source")
    find_package(liboqs CONFIG QUIET)
    if(TARGET OQS::oqs)
        get_target_property(_qflare_config_includes OQS::oqs INTERFACE_INCLUDE_DIRECTORIES)
        _qflare_consider("installed, CMake package ${liboqs_DIR}" "OQS::oqs" "${_qflare_config_includes}")
    else()
        list(APPEND _qflare_tried "CMake package liboqs: not found")
    endif()
endif()

if(NOT QFLARE_LIBOQS_ORIGIN AND NOT QFLARE_LIBOQS STREQUAL "source")
    find_package(PkgConfig QUIET)
    if(PKG_CONFIG_FOUND)
        pkg_check_modules(QFLARE_PC_LIBOQS QUIET IMPORTED_TARGET liboqs)
    endif()
    if(TARGET PkgConfig::QFLARE_PC_LIBOQS)
        _qflare_consider("installed, pkg-config ${QFLARE_PC_LIBOQS_PREFIX}" "${QFLARE_PC_LIBOQS_LINK_LIBRARIES}"
            "${QFLARE_PC_LIBOQS_INCLUDE_DIRS}")
    elseif(PKG_CONFIG_FOUND)
        list(APPEND _qflare_tried "pkg-config liboqs: not found")
    else()
        list(APPEND _qflare_tried "pkg-config: not installed")
    endif()
endif()

if(NOT QFLARE_LIBOQS_ORIGIN AND NOT QFLARE_LIBOQS STREQUAL "installed")
    qflare_build_liboqs(build)
    if(build_OK)
        _qflare_consider("${build_ORIGIN}" "${build_PREFIX}/lib/liboqs.a" "${build_PREFIX}/include")
        set(QFLARE_LIBOQS_LICENSES "${build_PREFIX}/licenses")
        message(STATUS "liboqs: kept in ${build_PREFIX}")
    else()
        list(APPEND _qflare_tried ${build_TRIED})
    endif()
endif()

if(NOT QFLARE_LIBOQS_ORIGIN)
    list(JOIN _qflare_tried "\n    - " _qflare_tried)
    message(FATAL_ERROR
        "QFLARE needs liboqs 0.13 or newer and could not get it. Tried:\n    - ${_qflare_tried}\n"
        "  Ways out, any one of them:\n"
        "    - install liboqs where CMake or pkg-config finds it (set CMAKE_PREFIX_PATH or PKG_CONFIG_PATH if need be)\n"
        "    - point at one: pip install . -C cmake.define.QFLARE_LIBOQS_ROOT=/path/to/prefix\n"
        "    - install cargo 1.82 or newer, or git, and build with network access once; later builds use the cache\n")
endif()

add_library(qflare_liboqs INTERFACE)
target_link_libraries(qflare_liboqs INTERFACE ${_qflare_libraries} Threads::Threads)
target_include_directories(qflare_liboqs SYSTEM INTERFACE ${_qflare_includes})
message(STATUS "liboqs: ${QFLARE_LIBOQS_ORIGIN}")
