import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from given_time import GivenTime
from qflare.errors import ConfigError, KeeperError, MissingExtraError
from qflare.stores.keeper import library
from qflare.stores.keeper.address import is_pkcs11, parse_address
from qflare.stores.keeper.pin import read_pin
from qflare.stores.keeper.pkcs11 import Pkcs11Keeper
from softhsm import PIN, SoftToken, require_softhsm, soft_token  # noqa: F401 - a fixture

TESTS = Path(__file__).parent.parent
REFUSAL_S = 1.0
RETURN_S = 5.0

HANGING = r"""
/* A PKCS#11 module in front of SoftHSM whose C_FindObjectsInit does not return while the file $HANG exists. */
#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
typedef unsigned long CK_RV;
typedef struct { unsigned char version[2]; void *functions[68]; } function_list;
typedef CK_RV (*get_list)(function_list **);
typedef CK_RV (*find_init)(unsigned long, void *, unsigned long);
static function_list ours;
static find_init theirs;
static CK_RV hang(unsigned long session, void *template, unsigned long count) {
    while (access(getenv("HANG"), F_OK) == 0) usleep(5000);
    return theirs(session, template, count);
}
CK_RV C_GetFunctionList(function_list **list) {
    void *module = dlopen(getenv("SOFTHSM"), RTLD_NOW);
    function_list *found;
    if (!module) return 5;
    CK_RV status = ((get_list)dlsym(module, "C_GetFunctionList"))(&found);
    if (status) return status;
    memcpy(&ours, found, sizeof ours);
    theirs = (find_init)found->functions[26];
    ours.functions[26] = (void *)hang;
    *list = &ours;
    return 0;
}
"""


def content(key):
    with key, key.view() as view:
        return bytes(view)


def run_script(text, token, *arguments, **variables):
    """Run a script in a process of its own: a module is loaded once a process."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(text), *map(str, arguments)],
        env=token.environment() | {"PYTHONPATH": str(TESTS)} | variables,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert 0 == done.returncode, done.stderr
    return done.stdout.split()


@pytest.fixture
def own_token(tmp_path):
    """A token whose folder the test may take away."""
    require_softhsm()
    (tmp_path / "hsm").mkdir()
    return SoftToken(tmp_path / "hsm")


def test_the_tokens_keys_cannot_be_taken_out(soft_token, tmp_path):  # noqa: F811
    """Wrapping keys are sensitive and never were extractable; what lies in the folder opens nothing by itself."""
    keeper = Pkcs11Keeper(soft_token.uri(), tmp_path / "keeper")
    key = content(keeper.make_bucket_key(3))
    assert all(key not in path.read_bytes() for path in (tmp_path / "keeper").iterdir())
    from pkcs11 import Attribute
    from pkcs11.exceptions import PKCS11Error

    def look(session, _facts):
        for found in session.get_objects({Attribute.ID: keeper._id}):
            flags = [found[Attribute[name]] for name in ("SENSITIVE", "NEVER_EXTRACTABLE", "ALWAYS_SENSITIVE")]
            with pytest.raises(PKCS11Error):
                found[Attribute.VALUE]
            yield found.label.rpartition("/")[2], flags, found[Attribute.EXTRACTABLE]

    seen = keeper._library.call(keeper._address, lambda *both: list(look(*both)))
    assert [("bucket-3", [True] * 3, False), ("long-term", [True] * 3, False)] == sorted(seen)


def test_a_wrapped_copy_is_void_once_the_tokens_key_is_destroyed(soft_token, tmp_path):  # noqa: F811
    """Who kept the folder from before, mark included, opens nothing after the bucket's key was destroyed."""
    keeper = Pkcs11Keeper(soft_token.uri(), tmp_path / "keeper")
    keeper.make_bucket_key(3).wipe()
    shutil.copytree(tmp_path / "keeper", tmp_path / "copy")
    assert content(Pkcs11Keeper(soft_token.uri(), tmp_path / "copy").bucket_key(3)) == content(keeper.bucket_key(3))
    assert 1 == keeper.destroy_bucket_keys(before=4)
    with pytest.raises(KeeperError, match="no key for it"):
        Pkcs11Keeper(soft_token.uri(), tmp_path / "copy").bucket_key(3)
    with pytest.raises(KeeperError, match="no key for it"):
        Pkcs11Keeper(soft_token.uri(), tmp_path / "copy").make_bucket_key(3)


def test_a_wrapped_copy_in_anothers_place_does_not_open(soft_token, tmp_path):  # noqa: F811
    """Wrapped keys swapped between buckets, or changed in one bit, give an error and no key."""
    keeper = Pkcs11Keeper(soft_token.uri(), tmp_path / "keeper")
    for bucket in (3, 4):
        keeper.make_bucket_key(bucket).wipe()
    three, four = (tmp_path / "keeper" / f"bucket-{bucket}.wrapped" for bucket in (3, 4))
    good = three.read_bytes()
    for bad in (four.read_bytes(), good[:-1] + bytes([good[-1] ^ 1])):
        three.write_bytes(bad)
        with pytest.raises(KeeperError):
            keeper.bucket_key(3)
    three.write_bytes(good[:-1])
    with pytest.raises(KeeperError, match="damaged"):
        keeper.make_bucket_key(3)
    keeper.bucket_key(4).wipe()


def test_an_extractable_key_in_our_place_is_refused(soft_token, tmp_path):  # noqa: F811
    """A key that somebody put into the token under our name, and can read, is not used."""
    from pkcs11 import Attribute, KeyType

    keeper = Pkcs11Keeper(soft_token.uri(), tmp_path / "keeper")
    weak = {Attribute.EXTRACTABLE: True, Attribute.SENSITIVE: False, Attribute.ENCRYPT: True, Attribute.DECRYPT: True}

    def plant(session, _facts):
        session.generate_key(
            KeyType.AES, 256, id=keeper._id, label=keeper._label("bucket-5"), store=True, template=weak
        )

    keeper._library.call(keeper._address, plant)
    with pytest.raises(KeeperError, match="protects nothing"):
        keeper.make_bucket_key(5)
    keeper.destroy_bucket_keys(before=6)


def test_a_key_without_its_wrapped_copy_is_taken_up(soft_token, tmp_path):  # noqa: F811
    """A crash between the token's key and the wrapped copy leaves nothing in the way."""
    keeper = Pkcs11Keeper(soft_token.uri(), tmp_path / "keeper")
    first = content(keeper.make_bucket_key(3))
    (tmp_path / "keeper" / "bucket-3.wrapped").unlink()
    assert first != content(keeper.make_bucket_key(3))
    assert 1 == keeper.destroy_bucket_keys(before=4)


def test_two_folders_in_one_token_do_not_meet(soft_token, tmp_path):  # noqa: F811
    """Keepers of two databases share a token; destroying one's keys leaves the other's."""
    one, two = (Pkcs11Keeper(soft_token.uri(), tmp_path / name) for name in ("one", "two"))
    key = content(two.make_bucket_key(3))
    assert key != content(one.make_bucket_key(3))
    assert 1 == one.destroy_bucket_keys(before=9)
    assert key == content(two.bucket_key(3))


def test_it_says_that_a_software_token_promises_nothing(soft_token, tmp_path):  # noqa: F811
    """SoftHSM keeps its keys in files, and the keeper says so."""
    assert "SoftHSM" in Pkcs11Keeper(soft_token.uri(), tmp_path / "keeper").promise()


def test_a_token_that_is_gone_is_refused_at_once_and_found_again(own_token, tmp_path):
    """I4: within a second of the token's loss a clear error and no key from anywhere, within five of its return all as before."""
    script = """
        import sys, time
        from pathlib import Path
        from qflare.errors import KeeperError
        from qflare.stores.keeper.pkcs11 import Pkcs11Keeper
        uri, folder, tokens = sys.argv[1], sys.argv[2], Path(sys.argv[3])
        def content(key):
            with key, key.view() as view:
                return bytes(view)
        keeper = Pkcs11Keeper(uri, folder)
        before = content(keeper.make_bucket_key(3)), content(keeper.long_term_key())
        files = sorted(path.name for path in Path(folder).iterdir())
        for _ in range(2):
            tokens.rename(tokens.with_name("away"))
            for call in (keeper.long_term_key, lambda: keeper.bucket_key(3), lambda: keeper.make_bucket_key(3),
                         lambda: keeper.make_bucket_key(4), lambda: keeper.destroy_bucket_keys(before=3)):
                start = time.monotonic()
                try:
                    call()
                except KeeperError as error:
                    assert "gone" in str(error), error
                else:
                    raise AssertionError("a key without a token")
                print(time.monotonic() - start)
            left = sorted(path.name for path in Path(folder).iterdir())
            assert set(left) - set(files) <= {"destroyed-before"}, left
            tokens.with_name("away").rename(tokens)
            start = time.monotonic()
            assert before == (content(keeper.make_bucket_key(3)), content(keeper.long_term_key()))
            print(time.monotonic() - start)
        assert 1 == keeper.destroy_bucket_keys(before=4)
    """
    given = GivenTime()
    took = [
        float(word) for word in run_script(script, own_token, own_token.uri(), tmp_path / "keeper", own_token.tokens)
    ]
    assert 12 == len(took)
    assert given.is_within(REFUSAL_S, took_s=max(took))


def test_no_token_at_the_start_is_an_error(own_token, tmp_path):
    """A keeper whose token is not there is not opened, and is once it is."""
    script = """
        import sys
        from pathlib import Path
        from qflare.errors import KeeperError
        from qflare.stores.keeper.pkcs11 import Pkcs11Keeper
        uri, folder, tokens = sys.argv[1], sys.argv[2], Path(sys.argv[3])
        tokens.rename(tokens.with_name("away"))
        for _ in range(2):
            try:
                Pkcs11Keeper(uri, folder)
            except KeeperError as error:
                print("refused")
        tokens.with_name("away").rename(tokens)
        Pkcs11Keeper(uri, folder).long_term_key().wipe()
        try:
            Pkcs11Keeper(uri.replace("qflare-test", "another"), folder)
        except KeeperError as error:
            assert "'another'" in str(error)
            print("unknown")
    """
    assert ["refused", "refused", "unknown"] == run_script(
        script, own_token, own_token.uri(), tmp_path / "keeper", own_token.tokens
    )


def test_a_call_that_hangs_holds_nobody(own_token, tmp_path):
    """A module that does not return costs one caller a second and the others nothing; when it returns, all is well."""
    if shutil.which("cc") is None:
        pytest.skip("needs a C compiler: apt-get install gcc")
    source = tmp_path / "hanging.c"
    source.write_text(HANGING)
    module = tmp_path / "hanging.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-o", module, source, "-ldl"], check=True, timeout=60)
    script = """
        import sys, threading, time
        from pathlib import Path
        from qflare.errors import KeeperError
        from qflare.stores.keeper.pkcs11 import Pkcs11Keeper
        uri, folder, hang = sys.argv[1], sys.argv[2], Path(sys.argv[3])
        keeper = Pkcs11Keeper(uri, folder)
        with keeper.make_bucket_key(3) as key:
            before = bytes(key.view())
        hang.touch()
        took = []
        def ask():
            start = time.monotonic()
            try:
                keeper.bucket_key(3)
            except KeeperError as error:
                assert "does not answer" in str(error), error
                took.append(time.monotonic() - start)
        threads = [threading.Thread(target=ask) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        ask()
        hang.unlink()
        start = time.monotonic()
        while True:
            try:
                with keeper.bucket_key(3) as key:
                    assert before == bytes(key.view())
                    break
            except KeeperError:
                time.sleep(0.01)
        took.append(time.monotonic() - start)
        hang.touch()
        ask()
        print(*took, flush=True)
        # The process ends although the call does not return.
    """
    uri = own_token.uri().replace(own_token.module, str(module))
    given = GivenTime()
    took = run_script(
        script,
        own_token,
        uri,
        tmp_path / "keeper",
        tmp_path / "hang",
        HANG=str(tmp_path / "hang"),
        SOFTHSM=own_token.module,
    )
    *refusals, again, returned, last = map(float, took)
    assert 8 == len(refusals)
    assert given.is_within(REFUSAL_S + 0.2, took_s=max(*refusals, last))  # the clock of eight threads
    assert given.is_within(0.1, took_s=again)
    assert given.is_within(RETURN_S, took_s=returned)


def test_a_fork_is_refused(soft_token, tmp_path):  # noqa: F811
    """A child of a process that loaded the module gets an error instead of a broken token."""
    script = """
        import os, sys
        from qflare.errors import KeeperError
        from qflare.stores.keeper.pkcs11 import Pkcs11Keeper
        uri, folder = sys.argv[1:3]
        keeper = Pkcs11Keeper(uri, folder)
        child = os.fork()
        if child == 0:
            status = 1
            for call in (keeper.long_term_key, lambda: Pkcs11Keeper(uri, folder)):
                try:
                    call()
                except KeeperError as error:
                    status = 0 if "fork" in str(error) else 2
                if status:
                    break
            os._exit(status)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        keeper.long_term_key().wipe()
    """
    assert ["0"] == run_script(script, soft_token, soft_token.uri(), tmp_path / "keeper")


def test_a_wrong_pin_is_asked_once(own_token, tmp_path):
    """A PIN that the token refused is not tried again, so that the token does not lock itself; a corrected file works."""
    script = """
        import sys
        from pathlib import Path
        from qflare.errors import KeeperError
        from qflare.stores.keeper import library
        from qflare.stores.keeper.pkcs11 import Pkcs11Keeper
        uri, folder, pin, right = sys.argv[1], sys.argv[2], Path(sys.argv[3]), sys.argv[4]
        import pkcs11
        asked = []
        for _ in range(3):
            try:
                Pkcs11Keeper(uri, folder)
            except KeeperError as error:
                assert "refuses the PIN" in str(error) and pin.read_text().strip() not in str(error)
            asked.append(len(library._libraries[list(library._libraries)[0]]._refused_pins))
        print(asked == [1, 1, 1])
        pin.write_text(right)
        Pkcs11Keeper(uri, folder).long_term_key().wipe()
    """
    wrong = tmp_path / "wrong"
    wrong.write_text("not-the-pin")
    wrong.chmod(0o600)
    assert ["True"] == run_script(script, own_token, own_token.uri(pin=wrong), tmp_path / "keeper", wrong, PIN)


def test_the_pin_comes_from_a_private_file_or_a_descriptor(tmp_path):
    """A PIN file is this user's alone; a descriptor is read once; nothing shows the PIN."""
    path = tmp_path / "pin"
    path.write_text(PIN + "\r\n")
    path.chmod(0o600)
    assert PIN.encode() == content(read_pin(f"file:{path}"))
    path.chmod(0o640)
    with pytest.raises(KeeperError, match="chmod 600") as caught:
        read_pin(f"file:{path}")
    assert PIN not in str(caught.value)
    path.chmod(0o600)
    for bad in ("", "\n", "x" * 257):
        path.write_text(bad)
        with pytest.raises(ConfigError, match="1 to 256"):
            read_pin(f"file:{path}")
    with pytest.raises(ConfigError, match="no file"):
        read_pin(f"file:{tmp_path / 'absent'}")
    reading, writing = os.pipe()
    os.write(writing, PIN.encode())
    os.close(writing)
    for _ in range(2):
        assert PIN.encode() == content(read_pin(f"fd:{reading}"))
    with pytest.raises(ConfigError, match="not open"):
        read_pin("fd:999")


@pytest.mark.parametrize(
    ("uri", "says"),
    [
        ("pkcs11:token=a?module-path=/m.so", "pin-source"),
        ("pkcs11:?module-path=/m.so&pin-source=file:/p", "token"),
        ("pkcs11:token=a?pin-source=file:/p", "module-path"),
        ("pkcs11:token=a?module-path=m.so&pin-source=file:/p", "absolute"),
        ("pkcs11:token=a?module-path=/m.so&pin-value=canary", "must not hold the PIN"),
        ("pkcs11:token=a;token=b?module-path=/m.so&pin-source=file:/p", "once"),
        ("pkcs11:token=?module-path=/m.so&pin-source=file:/p", "value"),
        ("pkcs11:token=a;pin=canary?module-path=/m.so&pin-source=file:/p", "not understood"),
        ("pkcs11:token=a;object=b%2Fc?module-path=/m.so&pin-source=file:/p", "object"),
        ("pkcs11:token=%ff?module-path=/m.so&pin-source=file:/p", "UTF-8"),
        ("pkcs11:token=a?module-path=/m.so&pin-source=canary", "pin-source"),
    ],
)
def test_a_bad_address_is_named_without_its_secrets(uri, says):
    """Each mistake in the setting is told by its part, and no value is repeated."""
    with pytest.raises(ConfigError, match=says) as caught:
        parse_address(uri)
    assert "canary" not in str(caught.value)


def test_a_good_address_is_read():
    """Names are percent-decoded, a bare path is a file, and other keepers are told apart."""
    found = parse_address("pkcs11:token=my%20token;serial=ab;object=fleet?module-path=/m.so&pin-source=/run/pin")
    assert ("my token", "ab", "fleet", "/m.so", "file:/run/pin") == (
        found.token,
        found.serial,
        found.object_name,
        found.module_path,
        found.pin_source,
    )
    assert is_pkcs11("pkcs11:x")
    assert not is_pkcs11("file:")
    assert not is_pkcs11(None)
    with pytest.raises(ConfigError, match="keeper must be"):
        is_pkcs11("vault:x")


def test_a_missing_binding_is_named(monkeypatch, tmp_path):
    """Without python-pkcs11 the error names the extra that brings it."""
    monkeypatch.setitem(sys.modules, "pkcs11", None)
    with pytest.raises(MissingExtraError, match=r"qflare\[hsm\]"):
        Pkcs11Keeper("pkcs11:token=a?module-path=/m.so&pin-source=file:/p", tmp_path / "keeper")


def test_a_missing_module_is_named(tmp_path):
    """A module that cannot be loaded is an error of the keeper within the second."""
    require_softhsm()
    pin = tmp_path / "pin"
    pin.write_text(PIN)
    pin.chmod(0o600)
    given = GivenTime()
    with pytest.raises(KeeperError, match=r"absent\.so"):
        Pkcs11Keeper(f"pkcs11:token=a?module-path={tmp_path}/absent.so&pin-source=file:{pin}", tmp_path / "keeper")
    assert given.is_within(REFUSAL_S)
    library._libraries.pop(f"{tmp_path}/absent.so")
