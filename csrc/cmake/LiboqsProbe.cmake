# What a liboqs can do, found out by trying it: never by its version number.
#
# qflare_probe_liboqs(<out> <target or library> <include dir>)
#   <out>_OK        TRUE if everything we cannot do without compiles and links
#   <out>_MISSING   what does not, for the error message
#   <out>_HAVE_...  what we can use but can do without

include_guard(GLOBAL)

function(_qflare_try out name libraries includes source)
    set(file "${CMAKE_BINARY_DIR}/probe/${name}.c")
    file(WRITE "${file}" "#include <oqs/oqs.h>\n${source}\n")
    # try_compile writes a cache entry, which a plain variable of the same name would hide.
    try_compile(QFLARE_PROBE_${name} "${CMAKE_BINARY_DIR}/probe/${name}" "${file}"
        CMAKE_FLAGS "-DINCLUDE_DIRECTORIES=${includes}"
        LINK_LIBRARIES ${libraries} ${CMAKE_THREAD_LIBS_INIT}
        OUTPUT_VARIABLE log)
    if(QFLARE_PROBE_${name})
        set(${out} TRUE PARENT_SCOPE)
    else()
        set(${out} FALSE PARENT_SCOPE)
    endif()
    unset(QFLARE_PROBE_${name} CACHE)
endfunction()

function(qflare_probe_liboqs out libraries includes)
    set(missing "")

    _qflare_try(found "mlkem" "${libraries}" "${includes}"
        "int main(void) { static uint8_t a[1568], b[3168], c[1568], d[32];
         return OQS_KEM_ml_kem_1024_keypair(a, b) + OQS_KEM_ml_kem_1024_encaps(c, d, a) + OQS_KEM_ml_kem_1024_decaps(d, c, b); }")
    if(NOT found)
        list(APPEND missing "ML-KEM-1024")
    endif()

    foreach(set 44 87)
        _qflare_try(found "mldsa${set}" "${libraries}" "${includes}"
            "int main(void) { static uint8_t a[2592], b[4896], s[4627]; size_t n = 0;
             return OQS_SIG_ml_dsa_${set}_keypair(a, b) + OQS_SIG_ml_dsa_${set}_sign_with_ctx_str(s, &n, a, 1, a, 1, b)
                  + OQS_SIG_ml_dsa_${set}_verify_with_ctx_str(a, 1, s, n, a, 1, a); }")
        if(NOT found)
            list(APPEND missing "ML-DSA-${set} with context strings")
        endif()
    endforeach()

    _qflare_try(found "random" "${libraries}" "${includes}"
        "static void draw(uint8_t *out, size_t size) { (void)out; (void)size; }
         int main(void) { OQS_init(); OQS_randombytes_custom_algorithm(draw); return 0; }")
    if(NOT found)
        list(APPEND missing "OQS_randombytes_custom_algorithm")
    endif()

    _qflare_try(keypair_derand "keypair_derand" "${libraries}" "${includes}"
        "int main(void) { static uint8_t a[1568], b[3168], s[64]; return OQS_KEM_ml_kem_1024_keypair_derand(a, b, s); }")
    _qflare_try(encaps_derand "encaps_derand" "${libraries}" "${includes}"
        "int main(void) { static uint8_t a[1568], c[1568], d[32], s[32]; return OQS_KEM_ml_kem_1024_encaps_derand(c, d, a, s); }")

    # Does decapsulation itself make the hash check of FIPS 203, 7.3?  A zero dk fails it.  Where it
    # cannot be run (cross builds), our own check is used: slower, never weaker.
    set(decaps_checks FALSE)
    if(NOT missing AND NOT CMAKE_CROSSCOMPILING)
        set(file "${CMAKE_BINARY_DIR}/probe/decaps_check.c")
        file(WRITE "${file}" "#include <oqs/oqs.h>
            int main(void) { static uint8_t dk[3168], ct[1568], ss[32]; OQS_init();
            return OQS_KEM_ml_kem_1024_decaps(ss, ct, dk) == OQS_SUCCESS; }\n")
        try_run(QFLARE_PROBE_EXIT QFLARE_PROBE_COMPILED "${CMAKE_BINARY_DIR}/probe/decaps_check" "${file}"
            CMAKE_FLAGS "-DINCLUDE_DIRECTORIES=${includes}"
            LINK_LIBRARIES ${libraries} ${CMAKE_THREAD_LIBS_INIT})
        if(QFLARE_PROBE_COMPILED AND "${QFLARE_PROBE_EXIT}" STREQUAL "0")
            set(decaps_checks TRUE)
        endif()
        unset(QFLARE_PROBE_EXIT CACHE)
        unset(QFLARE_PROBE_COMPILED CACHE)
    endif()

    if(missing)
        set(${out}_OK FALSE PARENT_SCOPE)
    else()
        set(${out}_OK TRUE PARENT_SCOPE)
    endif()
    string(REPLACE ";" ", " missing "${missing}")
    set(${out}_MISSING "${missing}" PARENT_SCOPE)
    set(${out}_HAVE_KEYPAIR_DERAND ${keypair_derand} PARENT_SCOPE)
    set(${out}_HAVE_ENCAPS_DERAND ${encaps_derand} PARENT_SCOPE)
    set(${out}_HAVE_DECAPS_CHECK ${decaps_checks} PARENT_SCOPE)
endfunction()
