# Build the pinned liboqs from source, statically, only the schemes in use; keep it in a cache.
#
# qflare_build_liboqs(<out>)
#   <out>_OK       TRUE if <out>_PREFIX holds include/, lib/liboqs.a and licenses/
#   <out>_ORIGIN   where the source came from
#   <out>_TRIED    what was tried and why it did not work
#
# The source is the crate oqs-sys, which carries liboqs's C source and which cargo fetches as a
# package, or liboqs's own git repository.  Either way what is built is checked: the crate by its
# SHA-256, the checkout by the SHA-256 over its source files, which are the same files.

include_guard(GLOBAL)

set(QFLARE_OQS_VERSION "0.13.0")
set(QFLARE_OQS_CRATE "oqs-sys")
set(QFLARE_OQS_CRATE_VERSION "0.11.0")
set(QFLARE_OQS_CRATE_SHA256 "ac6d66ee528a895ce5cc08851698d109c5d7ee5d7a0b3b40d61550eda91e414f")
set(QFLARE_OQS_GIT "https://github.com/open-quantum-safe/liboqs")
# SHA-256 over "<sha256>  <path>\n" of every file that this build reads, sorted by path.
set(QFLARE_OQS_TREE_SHA256 "be744711f5535d9a7a8f0fa45b14f13baa39cd4f61387c2acd5d9d3d5c92f636")

# Handed over as an initial-cache file, since a list does not survive a command line.
set(QFLARE_OQS_OPTIONS [=[
set(CMAKE_BUILD_TYPE Release CACHE STRING "")
set(OQS_BUILD_ONLY_LIB ON CACHE BOOL "")
set(OQS_DIST_BUILD ON CACHE BOOL "")
set(OQS_USE_OPENSSL OFF CACHE BOOL "")
set(OQS_MINIMAL_BUILD "KEM_ml_kem_1024;SIG_ml_dsa_44;SIG_ml_dsa_87" CACHE STRING "")
set(BUILD_SHARED_LIBS OFF CACHE BOOL "")
set(CMAKE_POSITION_INDEPENDENT_CODE ON CACHE BOOL "")
set(CMAKE_INSTALL_LIBDIR lib CACHE STRING "")
]=])
# More of the same, for special builds such as the constant-time check's.
set(QFLARE_OQS_EXTRA_OPTIONS "" CACHE STRING "CMake code with further cache entries for the build of liboqs")

function(_qflare_run log)
    execute_process(COMMAND ${ARGN} RESULT_VARIABLE result OUTPUT_VARIABLE text ERROR_VARIABLE text)
    string(STRIP "${text}" text)
    string(LENGTH "${text}" size)
    if(size GREATER 1500)
        math(EXPR from "${size} - 1500")
        string(SUBSTRING "${text}" ${from} -1 text)
    endif()
    set(RESULT "${result}" PARENT_SCOPE)
    set(${log} "${text}" PARENT_SCOPE)
endfunction()

# SHA-256 over the files that a build of liboqs reads.
function(qflare_tree_digest out root)
    file(GLOB_RECURSE files RELATIVE "${root}" "${root}/.CMake/*" "${root}/src/common/*"
        "${root}/src/kem/ml_kem/*" "${root}/src/sig/ml_dsa/*")
    file(GLOB more RELATIVE "${root}" LIST_DIRECTORIES false "${root}/CMakeLists.txt" "${root}/src/*"
        "${root}/src/kem/*" "${root}/src/sig/*" "${root}/src/sig_stfl/*")
    list(APPEND files ${more})
    list(SORT files COMPARE STRING)
    set(text "")
    foreach(name IN LISTS files)
        file(SHA256 "${root}/${name}" digest)
        string(APPEND text "${digest}  ${name}\n")
    endforeach()
    string(SHA256 digest "${text}")
    set(${out} "${digest}" PARENT_SCOPE)
endfunction()

# A cargo that is rustup's looks for its toolchains below HOME.  Where HOME is another one (a build's own, an empty one),
# in which rustup itself makes an empty folder at its first call, they are still beside that cargo's own folder:
# <somewhere>/.cargo/bin/cargo and <somewhere>/.rustup.
function(_qflare_rustup_home out cargo)
    set(${out} "" PARENT_SCOPE)
    if(DEFINED ENV{RUSTUP_HOME} OR IS_DIRECTORY "$ENV{HOME}/.rustup/toolchains")
        return()
    endif()
    get_filename_component(beside "${cargo}/../../../.rustup" ABSOLUTE)
    if(cargo MATCHES "/\\.cargo/bin/" AND IS_DIRECTORY "${beside}")
        set(${out} "RUSTUP_HOME=${beside}" PARENT_SCOPE)
    endif()
endfunction()

# By cargo, as a package.
function(_qflare_fetch_crate out work)
    set(${out} "" PARENT_SCOPE)
    find_program(QFLARE_CARGO cargo)
    if(NOT QFLARE_CARGO)
        set(REASON "cargo is not installed" PARENT_SCOPE)
        return()
    endif()
    # `cargo info` brings that one package; `cargo fetch` would bring everything it depends on.
    # Outside any Cargo project, so that no manifest or lock of ours or of the user is touched.
    file(MAKE_DIRECTORY "${work}/cargo")
    _qflare_rustup_home(toolchains "${QFLARE_CARGO}")
    execute_process(
        COMMAND ${CMAKE_COMMAND} -E env "CARGO_HOME=${work}/cargo" ${toolchains}
            "${QFLARE_CARGO}" info "${QFLARE_OQS_CRATE}@${QFLARE_OQS_CRATE_VERSION}"
        WORKING_DIRECTORY "${work}"
        RESULT_VARIABLE result OUTPUT_VARIABLE text ERROR_VARIABLE text)
    file(GLOB_RECURSE crates "${work}/cargo/registry/cache/*/${QFLARE_OQS_CRATE}-${QFLARE_OQS_CRATE_VERSION}*.crate")
    if(NOT crates)
        string(REGEX REPLACE "[\r\n]+" " | " text "${text}")
        string(SUBSTRING "${text}" 0 400 text)
        set(REASON "cargo info ${QFLARE_OQS_CRATE}@${QFLARE_OQS_CRATE_VERSION} brought no package (needs cargo 1.82 or newer, and the network): ${text}" PARENT_SCOPE)
        return()
    endif()
    list(GET crates 0 crate)
    file(SHA256 "${crate}" digest)
    if(NOT digest STREQUAL QFLARE_OQS_CRATE_SHA256)
        set(REASON "the package's SHA-256 is ${digest}, not the pinned ${QFLARE_OQS_CRATE_SHA256}: refused" PARENT_SCOPE)
        return()
    endif()
    file(ARCHIVE_EXTRACT INPUT "${crate}" DESTINATION "${work}/crate")
    file(GLOB roots "${work}/crate/${QFLARE_OQS_CRATE}-*/liboqs")
    list(GET roots 0 root)
    set(${out} "${root}" PARENT_SCOPE)
endfunction()

# By git, from upstream.
function(_qflare_fetch_git out work)
    set(${out} "" PARENT_SCOPE)
    find_program(QFLARE_GIT git)
    if(NOT QFLARE_GIT)
        set(REASON "git is not installed" PARENT_SCOPE)
        return()
    endif()
    execute_process(
        COMMAND ${CMAKE_COMMAND} -E env "GIT_TERMINAL_PROMPT=0"
            "${QFLARE_GIT}" -c core.autocrlf=false clone --quiet --depth 1 --branch "${QFLARE_OQS_VERSION}"
            "${QFLARE_OQS_GIT}" "${work}/git"
        RESULT_VARIABLE result OUTPUT_VARIABLE text ERROR_VARIABLE text)
    if(NOT result EQUAL 0)
        string(STRIP "${text}" text)
        string(REGEX REPLACE "[\r\n]+" " | " text "${text}")
        set(REASON "git clone of ${QFLARE_OQS_GIT}, tag ${QFLARE_OQS_VERSION}, failed: ${text}" PARENT_SCOPE)
        return()
    endif()
    qflare_tree_digest(digest "${work}/git")
    if(NOT digest STREQUAL QFLARE_OQS_TREE_SHA256)
        set(REASON "the checkout's sources have SHA-256 ${digest}, not the pinned ${QFLARE_OQS_TREE_SHA256}: refused" PARENT_SCOPE)
        return()
    endif()
    set(${out} "${work}/git" PARENT_SCOPE)
endfunction()

function(qflare_build_liboqs out)
    set(${out}_OK FALSE PARENT_SCOPE)

    if(DEFINED ENV{XDG_CACHE_HOME} AND IS_ABSOLUTE "$ENV{XDG_CACHE_HOME}")
        set(cache "$ENV{XDG_CACHE_HOME}/qflare")
    elseif(DEFINED ENV{HOME} AND IS_DIRECTORY "$ENV{HOME}")
        set(cache "$ENV{HOME}/.cache/qflare")
    else()
        set(cache "${CMAKE_BINARY_DIR}/cache")
    endif()
    file(MAKE_DIRECTORY "${cache}")

    # Same source, options and compiler: same library. The number moves when what is kept beside it changes.
    string(JOIN "|" key "2" "${QFLARE_OQS_TREE_SHA256}" "${QFLARE_OQS_OPTIONS}" "${CMAKE_C_COMPILER_ID}" "${CMAKE_C_COMPILER_VERSION}"
        "${CMAKE_SYSTEM_NAME}" "${CMAKE_SYSTEM_PROCESSOR}" "${CMAKE_C_COMPILER_TARGET}"
        "$ENV{CFLAGS}" "${QFLARE_OQS_EXTRA_OPTIONS}")
    string(SHA256 key "${key}")
    string(SUBSTRING "${key}" 0 16 key)
    set(prefix "${cache}/liboqs-${QFLARE_OQS_VERSION}-${key}")

    # Two builds at once: the second waits and finds the first one's result.
    file(LOCK "${cache}/liboqs-${key}.lock" GUARD FUNCTION TIMEOUT 900 RESULT_VARIABLE locked)
    if(NOT locked EQUAL 0)
        set(${out}_TRIED "another build holds ${cache}/liboqs-${key}.lock for 15 minutes (${locked})" PARENT_SCOPE)
        return()
    endif()
    if(EXISTS "${prefix}/origin.txt")
        file(READ "${prefix}/origin.txt" origin)
        set(${out}_OK TRUE PARENT_SCOPE)
        set(${out}_PREFIX "${prefix}" PARENT_SCOPE)
        set(${out}_ORIGIN "${origin}" PARENT_SCOPE)
        return()
    endif()

    set(work "${CMAKE_BINARY_DIR}/liboqs")
    file(REMOVE_RECURSE "${work}")
    file(MAKE_DIRECTORY "${work}")
    set(tried "")
    message(STATUS "liboqs: fetching the pinned source ${QFLARE_OQS_VERSION} (crate ${QFLARE_OQS_CRATE} ${QFLARE_OQS_CRATE_VERSION})")
    _qflare_fetch_crate(root "${work}")
    set(origin "built from the source in the crate ${QFLARE_OQS_CRATE} ${QFLARE_OQS_CRATE_VERSION} (liboqs ${QFLARE_OQS_VERSION}), static")
    if(NOT root)
        list(APPEND tried "the crate: ${REASON}")
        message(STATUS "liboqs: ${REASON}; trying git")
        _qflare_fetch_git(root "${work}")
        set(origin "built from the source at ${QFLARE_OQS_GIT}, tag ${QFLARE_OQS_VERSION}, static")
    endif()
    if(NOT root)
        list(APPEND tried "git: ${REASON}")
        set(${out}_TRIED "${tried}" PARENT_SCOPE)
        return()
    endif()

    message(STATUS "liboqs: building it once (about a minute); kept in ${prefix}")
    file(WRITE "${work}/options.cmake" "${QFLARE_OQS_OPTIONS}${QFLARE_OQS_EXTRA_OPTIONS}\n")
    _qflare_run(log "${CMAKE_COMMAND}" -C "${work}/options.cmake" -S "${root}" -B "${work}/build" -G "${CMAKE_GENERATOR}"
        "-DCMAKE_MAKE_PROGRAM=${CMAKE_MAKE_PROGRAM}" "-DCMAKE_C_COMPILER=${CMAKE_C_COMPILER}"
        "-DCMAKE_TOOLCHAIN_FILE=${CMAKE_TOOLCHAIN_FILE}" "-DCMAKE_INSTALL_PREFIX=${work}/prefix")
    if(RESULT EQUAL 0)
        _qflare_run(log "${CMAKE_COMMAND}" --build "${work}/build" --target install --parallel)
    endif()
    if(NOT RESULT EQUAL 0)
        list(APPEND tried "building it failed: ${log}")
        set(${out}_TRIED "${tried}" PARENT_SCOPE)
        return()
    endif()

    # The licence texts of exactly what was built go into the wheel beside ours.
    file(MAKE_DIRECTORY "${work}/prefix/licenses")
    file(COPY_FILE "${root}/LICENSE.txt" "${work}/prefix/licenses/LICENSE.liboqs.txt")
    file(GLOB mlkem "${root}/src/kem/ml_kem/mlkem-native_ml-kem-1024_ref/mlkem/LICENSE"
        "${root}/src/kem/ml_kem/mlkem-native_ml-kem-1024_ref/LICENSE")
    foreach(text IN LISTS mlkem)
        file(COPY_FILE "${text}" "${work}/prefix/licenses/LICENSE.mlkem-native.txt")
    endforeach()
    file(GLOB mldsa "${root}/src/sig/ml_dsa/*-44_ref/LICENSE")
    foreach(text IN LISTS mldsa)
        file(COPY_FILE "${text}" "${work}/prefix/licenses/LICENSE.pqcrystals-dilithium.txt")
    endforeach()
    # Keccak (XKCP) has its terms at the top of two sources.
    set(keccak "${root}/src/common/sha3/xkcp_low/KeccakP-1600")
    file(READ "${keccak}/plain-64bits/brg_endian.h" text)
    string(FIND "${text}" "*/" end)
    string(SUBSTRING "${text}" 0 ${end} text)
    file(WRITE "${work}/prefix/licenses/LICENSE.brg_endian.txt" "${text}*/\n")
    file(GLOB assembly "${keccak}/avx2/*.s" "${keccak}/avx2/*.S")
    foreach(name IN LISTS assembly)
        file(READ "${name}" text)
        string(FIND "${text}" "\n\n" end)
        string(SUBSTRING "${text}" 0 ${end} text)
        file(WRITE "${work}/prefix/licenses/LICENSE.cryptogams.txt" "${text}\n")
    endforeach()
    # liboqs lists all terms in its README.
    file(STRINGS "${root}/README.md" lines)
    set(notice "Parts of liboqs and their terms, from the README of liboqs ${QFLARE_OQS_VERSION}:\n\n")
    foreach(line IN LISTS lines)
        if(line MATCHES "^- *`(src|\\.CMake)/")
            string(APPEND notice "${line}\n")
        endif()
    endforeach()
    file(WRITE "${work}/prefix/licenses/NOTICE.liboqs.txt" "${notice}")

    # The origin is written last: its presence says that the folder is complete.
    file(REMOVE_RECURSE "${prefix}" "${prefix}.partial")
    file(COPY "${work}/prefix/" DESTINATION "${prefix}.partial")
    file(RENAME "${prefix}.partial" "${prefix}")
    file(WRITE "${prefix}/origin.txt" "${origin}")
    file(REMOVE_RECURSE "${work}")
    set(${out}_OK TRUE PARENT_SCOPE)
    set(${out}_PREFIX "${prefix}" PARENT_SCOPE)
    set(${out}_ORIGIN "${origin}" PARENT_SCOPE)
endfunction()
