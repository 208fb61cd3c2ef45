"""Pickles that would do something are refused by name, and nothing of them has run: the file that each would create is
not there."""

from __future__ import annotations

import codecs
import os
import pickle
import pickletools
import struct
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from series_ingest import PickleRefused, migrate
from series_ingest.pickle_scan import ALLOWED, scan
from series_ingest.pickle_store import Kept, _Unpickler, load_store


class Call:
    """An object that a pickle makes by a call."""

    def __init__(self, function, *arguments, state=None):
        self.reduced = (function, arguments) if state is None else (function, arguments, state)

    def __reduce__(self):
        return self.reduced


def text(value: str) -> bytes:
    encoded = value.encode()
    return b"X" + struct.pack("<I", len(encoded)) + encoded


def name(of: str, protocol: int = 2) -> bytes:
    module, _, item = of.rpartition(".")
    if protocol >= 4:
        return text(module) + text(item) + b"\x93"
    return f"c{module}\n{item}\n".encode()


def call(of: str, *arguments: bytes, protocol: int = 2) -> bytes:
    return name(of, protocol) + b"(" + b"".join(arguments) + b"tR"


def whole(body: bytes, protocol: int = 2) -> bytes:
    return b"\x80" + bytes([protocol]) + body + b"."


@pytest.fixture
def marker(tmp_path) -> Path:
    return tmp_path / "created"


def refused(data: bytes, marker: Path) -> PickleRefused:
    """The refusal of a pickle, by all the ways into the program; it has created nothing."""
    with pytest.raises(PickleRefused) as by_scan:
        scan(data)
    # By the scan, before anything is loaded.
    with pytest.raises(PickleRefused) as by_load:
        load_store(data)
    assert str(by_load.value) == str(by_scan.value)
    path = marker.with_name("storage.pkl")
    path.write_bytes(data)
    assert migrate.main([str(path), "--out", str(marker.with_name("out"))]) == migrate.REFUSED
    assert not marker.exists()
    return by_scan.value


def test_the_markers_are_created_by_an_ordinary_unpickler(marker):
    pickle.loads(pickle.dumps(Call(os.system, f"touch {marker}")))  # noqa: S301 - this test's own
    assert marker.exists()


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("function", [os.system, os.popen, eval, exec, getattr, open, __import__, codecs.lookup, print, pickle.loads])
def test_a_call_of_anything_else_is_refused_by_name(function, protocol, marker):
    argument = {getattr: os, open: str(marker)}.get(function, f"__import__('os').system('touch {marker}')")
    if function in (os.system, os.popen):
        argument = f"touch {marker}"
    if function is getattr:
        reduced = Call(Call(getattr, "text", "upper").reduced[0], "text", "upper")
    else:
        reduced = Call(function, argument)
    error = refused(pickle.dumps({"a": reduced}, protocol=protocol), marker)
    full = f"{function.__module__}.{function.__name__}".replace("io.open", "open")
    assert error.name is not None and (error.name.endswith(f".{function.__name__}") or full in str(error)), error


@pytest.mark.parametrize("protocol", range(6))
def test_what_is_hidden_in_a_frame_is_refused_by_name(protocol, marker):
    hidden = Call(os.system, f"touch {marker}")
    frame = pd.DataFrame({"t": pd.date_range("2024", periods=1)})
    places = [
        np.array([1, hidden], dtype=object),
        frame.assign(o=pd.Series([hidden], dtype=object)),
        pd.Series([1], index=pd.Index([hidden], dtype=object)),
    ]
    attributed = frame.copy()
    attributed.attrs["note"] = hidden
    for place in [*places, attributed, {hidden: 1}, (hidden,), [hidden], Call(dict, ()), Call(set, [1], state={"x": hidden})]:
        error = refused(pickle.dumps({"s": place}, protocol=protocol), marker)
        assert error.name in (f"{os.system.__module__}.system", "builtins.dict"), error


REACHABLE = [
    *("pandas.read_pickle", "pandas.eval", "pandas.io.pickle.read_pickle", "pandas.compat.pickle_compat.load"),
    *("pandas.core.frame.DataFrame.query", "pandas.core.frame.DataFrame.eval", "pandas.DataFrame.query"),
    *("pandas.core.frame.DataFrame.to_pickle", "pandas.DataFrame.to_csv", "pandas.Series.to_csv"),
    *("pandas.core.computation.eval.eval", "pandas.io.common.get_handle", "pandas.read_csv"),
    *("numpy.load", "numpy.f2py.compile", "numpy.memmap", "numpy.fromfile", "numpy.save", "numpy.loadtxt"),
    *("numpy.testing._private.utils.runstring", "numpy.distutils.exec_command.exec_command", "numpy.lib.npyio.load"),
    *("numpy.core.multiarray.fromfile", "numpy.ndarray.tofile", "numpy.ndarray.dump", "numpy.dtype.__class__"),
    *("functools.partial", "operator.attrgetter", "operator.methodcaller", "builtins.map", "builtins.compile"),
    *("builtins.__import__", "builtins.setattr", "builtins.globals", "importlib.import_module", "runpy.run_path"),
    *("subprocess.Popen", "posix.system", "nt.system", "os.execvp", "shutil.rmtree", "pty.spawn", "ctypes.CDLL"),
    *("pickle.loads", "_pickle.loads", "marshal.loads", "types.FunctionType", "types.CodeType", "code.InteractiveInterpreter"),
    *("zoneinfo.ZoneInfo.from_file", "zoneinfo.ZoneInfo._unpickle", "zoneinfo.reset_tzpath", "_codecs.register"),
    *("copyreg.add_extension", "copyreg.__newobj__", "collections.namedtuple", "datetime.sys", "decimal.sys"),
    *("pyarrow.lib.memory_map", "pyarrow.lib.OSFile", "pyarrow.lib.foreign_buffer", "pyarrow.lib.UnknownExtensionType"),
    *("pyarrow.fs.LocalFileSystem", "pandas.arrays.sys", "numpy.sys", "numpy.core.multiarray._reconstruct.__self__"),
    *("asyncio.unix_events._UnixSubprocessTransport._start", "test.support.script_helper.assert_python_ok"),
    *("TimeSeries.query", "os.TimeSeries.x", "builtins.object.__subclasses__", "site.main", "antigravity.x", "this.s"),
]


@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize("of", REACHABLE)
def test_functions_within_reach_of_modules_that_are_allowed_are_refused_by_name(of, protocol, marker):
    error = refused(whole(call(of, text(str(marker)), protocol=protocol), max(protocol, 2)), marker)
    assert error.name == of and of in str(error)
    # A dotted name in the item, and not in the module.
    module, _, item = of.partition(".")
    dotted = text(module) + text(item) + b"\x93(tR"
    error = refused(whole(dotted, 4), marker)
    assert error.name == of and of in str(error)


@pytest.mark.parametrize("of", sorted(ALLOWED))
def test_no_name_that_is_allowed_runs_anything(of, marker):
    """Whatever is allowed is replaced by a class that only keeps what it is called with."""
    if of == "builtins.getattr":
        return
    for arguments in ((), (text(f"touch {marker}"),), (text("x"), text("latin1"), b"N")):
        made = _Unpickler(whole(call(of, *arguments))).load()
        assert isinstance(made, Kept) or of.startswith("collections.")
    assert not marker.exists()


def test_getattr_makes_zones_and_nothing_else(marker):
    zone = call("builtins.getattr", name("zoneinfo.ZoneInfo"), text("_unpickle")) + b"(" + text("Europe/Berlin") + b"K\x01tR"
    assert "zoneinfo.ZoneInfo" in scan(whole(zone))
    for arguments in (
        (name("zoneinfo.ZoneInfo"), text("from_file")),
        (name("zoneinfo.ZoneInfo"), text("__class__")),
        (name("pandas.DataFrame"), text("query")),
        (name("pandas.DataFrame"), text("_unpickle")),
        (text("zoneinfo.ZoneInfo"), text("_unpickle")),
        (name("zoneinfo.ZoneInfo"), text("_unpickle"), b"N"),
        (name("zoneinfo.ZoneInfo"), b"N"),
        (name("zoneinfo.ZoneInfo"),),
    ):
        assert refused(whole(call("builtins.getattr", *arguments)), marker).name == "builtins.getattr"
    # In a list, whose content the scan does not follow.
    listed = name("builtins.getattr") + b"]" + name("zoneinfo.ZoneInfo") + b"a" + text("_unpickle") + b"aR"
    assert refused(whole(listed), marker).name == "builtins.getattr"
    # Not even if the scan would let it pass.
    for arguments in ((name("pandas.DataFrame"), text("query")), (name("builtins.object"), text("__subclasses__"))):
        made = _Unpickler(whole(call("builtins.getattr", *arguments) + b"(tR")).load()
        assert isinstance(made, Kept) and made.name == "zoneinfo.ZoneInfo"


def test_a_reconstructor_makes_plain_objects_and_nothing_else(marker):
    plain = (name("a.TimeSeries"), name("builtins.object"), b"N")
    scan(whole(call("copyreg._reconstructor", *plain)))
    for arguments in (
        (name("a.TimeSeries"), name("builtins.bytes"), text("x")),
        (name("a.TimeSeries"), name("a.TimeSeries"), b"N"),
        (text("a"), name("builtins.object"), b"N"),
        plain[:2],
    ):
        assert refused(whole(call("copyreg._reconstructor", *arguments)), marker).name == "copyreg._reconstructor"


@pytest.mark.parametrize(
    ("body", "said"),
    [
        # Names that are made at run time.
        (text("os") + b"I1\n\x93", "a name that it computes"),
        (b"N" + text("system") + b"\x93", "a name that it computes"),
        (call("_codecs.encode", text("os")) + text("system") + b"\x93", "a name that it computes"),
        (b"(X\x02\x00\x00\x00os" + b"t" + text("system") + b"\x93", "a name that it computes"),
        # Registered numbers, and what another program resolves.
        (b"\x82\x01(tR", "uses EXT1"),
        (b"\x83\x01\x00(tR", "uses EXT2"),
        (b"\x84\x01\x00\x00\x00(tR", "uses EXT4"),
        (b"Pid\n", "uses PERSID"),
        (b"Nq\x00Q", "uses BINPERSID"),
        (b"\x97", "uses NEXT_BUFFER"),
        (b"N\x98", "uses READONLY_BUFFER"),
        # Calls of what is not a name.
        (b"N(tR", "calls a value that it computes"),
        (text("os.system") + b"(tR", "calls a value that it computes"),
        (call("builtins.set") + b"(tR", "calls what builtins.set returns"),
        (b"]" + name("builtins.set") + b"a(tR", "calls a value that it computes"),
        (b"N)\x81", "calls a value that it computes"),
        (b"N)}\x92", "calls a value that it computes"),
        (b"(NI1\no", "calls a value that it computes"),
        # Attributes of classes and functions instead of objects.
        (name("pandas.DataFrame") + b"}b", "sets attributes of pandas.DataFrame"),
        (name("pandas.DataFrame") + b"N}\x86b", "sets attributes of pandas.DataFrame"),
        (b"}}b", "sets attributes of a plain value"),
        (name("collections.OrderedDict") + text("a") + b"Ns", "changes collections.OrderedDict"),
        (name("pandas.DataFrame") + b"(NN" + b"u", "changes pandas.DataFrame"),
        (name("pandas.DataFrame") + b"Na", "changes pandas.DataFrame"),
        # A memo for which the real one would take all memory.
        (b"Nr\xff\xff\xff\x7f", "has a memo of 2147483647 entries"),
        (b"Np2147483647\n", "has a memo of 2147483647 entries"),
        (b"h\x07", "has no memo 7"),
        (b"j\x07\x00\x00\x00", "has no memo 7"),
        # Not one value at the end, or none.
        (b"NN", "leaves values that it does not use"),
        (b"(N", "leaves values that it does not use"),
        (b"", "not a complete pickle"),
        (b"t", "not a complete pickle|no mark"),
        (b"(R", "mark as a value|not a complete pickle"),
        (b"\xff", "not a complete pickle"),
    ],
)
def test_what_is_not_known_before_it_runs_is_refused(body, said, marker):
    assert any(part in str(refused(whole(body), marker)) for part in said.split("|"))


@pytest.mark.parametrize(
    "body",
    [
        # The name's parts come out of the memo, in another order, or twice.
        text("system") + b"q\x00" + b"0" + text("posix") + b"h\x00\x93(" + text("touch X") + b"tR",
        text("posix") + b"\x94" + text("system") + b"\x940" + b"0h\x00h\x01\x93(tR",
        text("posix") + b"2" + b"0" + text("system") + b"\x93(tR",
        # By a mark that is dropped, and by a name that is pushed and not called.
        b"(NN1" + name("posix.system", 4) + b"(tR",
        name("posix.system"),
        # By the opcodes of protocol 0 and 1.
        b"(" + text("touch X") + b"iposix\nsystem\n",
        b"(" + name("posix.system") + text("touch X") + b"o",
        b"S'posix'\nS'system'\n\x93(tR",
        b"S'\\x70osix'\nVs\\u0079stem\n\x93(tR",
        b"U\x05posixT\x06\x00\x00\x00system\x93(tR",
        b"\x8c\x05posix\x8d\x06\x00\x00\x00\x00\x00\x00\x00system\x93(tR",
    ],
)
def test_a_name_in_any_spelling_is_refused_by_name(body, marker):
    error = refused(whole(body, 4), marker)
    assert error.name == "posix.system" and "posix.system" in str(error)


def test_names_with_spaces_and_of_other_characters_are_refused(marker):
    for body in (b"cos system\nx\n", b"cos\nsystem x\n", b"c\n\n", "c\u00f6s\nsystem\n".encode(), b"(ios x\ny\n"):
        refused(whole(body + b"(tR"), marker)


def test_pickles_within_a_pickle_stay_bytes(marker):
    inner = pickle.dumps(Call(os.system, f"touch {marker}"))
    kept = call("numpy.core.multiarray._reconstruct", name("numpy.ndarray"), b"K\x00\x85", b"C\x01b") + b"(K\x01K\x01\x85"
    kept += call("numpy.dtype", text("O8"), b"\x89", b"\x88") + b"(K\x03" + text("|") + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK?tb\x89"
    kept += b"B" + struct.pack("<I", len(inner)) + inner + b"tb"
    block = call("pandas._libs.internals._unpickle_block", kept, call("builtins.slice", b"K\x00", b"K\x01", b"K\x01"), b"K\x02")
    index = call("pandas.core.indexes.base._new_Index", name("pandas.RangeIndex"), b"}(" + b"".join((text("start"), b"K\x00", text("stop"), b"K\x01", text("step"), b"K\x01")) + b"u")
    columns = index
    manager = call("pandas.core.internals.managers.BlockManager", b"(" + block + b"t", b"](" + columns + index + b"e")
    frame = name("pandas.DataFrame") + b")\x81}" + text("_mgr") + manager + b"sb"
    series = name("a.TimeSeries") + b")\x81}(" + text("id") + text("s") + text("data") + frame
    series += text("time_column") + text("t") + text("value_columns") + b"](" + text("v") + b"eub"
    data = whole(b"}" + text("s") + series + b"s", 3)
    path = marker.with_name("storage.pkl")
    path.write_bytes(data)
    (stored,) = load_store(data)
    with pytest.raises(ValueError):
        stored.series()
    assert migrate.main([str(path), "--dry-run"]) == migrate.SOME_FAILED
    assert not marker.exists()


def test_a_scan_follows_real_pickles_of_python_itself():
    """Everything that Python pickles of plain data is followed to its end."""
    data = {"a": [1, 2.5, None, True, "x", b"y", (1, 2, 3, 4), {1, 2}, frozenset([3]), bytearray(b"z"), 2**70], 3: {}}
    data["again"] = data["a"]
    for protocol in range(6):
        for optimized in (False, True):
            made = pickle.dumps(data, protocol=protocol)
            scan(pickletools.optimize(made) if optimized else made)
