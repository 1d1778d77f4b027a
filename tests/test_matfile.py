import io
import struct
from typing import Any

import numpy as np
import pytest
import scipy.io

from tests.test_pairs import flipped
from trainer.data import matfile

VALUES = np.arange(6, dtype=np.uint8).reshape(2, 3)


def saved(compressed: bool = True, **variables: Any) -> bytes:
    buffer = io.BytesIO()
    scipy.io.savemat(buffer, variables, do_compression=compressed)
    return buffer.getvalue()


def element(kind: int, content: bytes, order: str = ">") -> bytes:
    head = struct.pack(f"{order}II", kind, len(content))
    return head + content + bytes(-len(content) % 8)


@pytest.mark.parametrize("compressed", [True, False])
@pytest.mark.parametrize(
    "kind", ["u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f4", "f8"]
)
def test_matrices_of_every_number_are_what_scipy_reads(
    compressed: bool, kind: str
) -> None:
    values = np.arange(-7, 8).reshape(3, 5).astype(kind)
    content = saved(compressed, first=np.ones(3), a=values, last="text")
    found = matfile.read_matrix(content, "a")
    assert found is not None
    assert found.dtype == values.dtype
    np.testing.assert_array_equal(found, scipy.io.loadmat(io.BytesIO(content))["a"])


@pytest.mark.parametrize(
    "shape", [(1, 1), (0, 3), (1, 4), (4, 1), (2, 3, 4), (640, 480)]
)
def test_matrices_of_any_shape_are_read(shape: tuple[int, ...]) -> None:
    values = np.random.default_rng(0).integers(0, 60, shape, np.uint8)
    found = matfile.read_matrix(saved(a=values), "a")
    assert found is not None
    np.testing.assert_array_equal(found, values)


def test_big_endian_files_and_small_elements_are_read() -> None:
    values = np.array([[1, 258], [-3, 4]], ">i2")
    flags = element(6, struct.pack(">II", 10, 0))
    shape = element(5, struct.pack(">ii", 2, 2))
    name = struct.pack(">HH4s", 1, 1, b"a")  # length and type share four bytes
    numbers = element(3, values.tobytes(order="F"))
    content = bytes(124) + b"\x01\x00MI" + element(14, flags + shape + name + numbers)
    found = matfile.read_matrix(content, "a")
    assert found is not None
    assert found.dtype == np.dtype("=i2")
    assert found.tolist() == values.tolist()


@pytest.mark.parametrize("compressed", [True, False])
def test_names_are_the_texts_of_a_cell_array(compressed: bool) -> None:
    names = ["null", "T-shirt", "", "größe", "鞄", "🙂"]
    content = saved(compressed, label_list=np.array(names, object))
    assert matfile.read_names(content, "label_list") == names


@pytest.mark.parametrize("kind", [4, 17])
def test_texts_of_two_bytes_a_character_are_read(kind: int) -> None:
    # as MATLAB writes them
    text = element(kind, "größe".encode("utf-16-le"), "<")
    flags = element(6, struct.pack("<II", 4, 0), "<")
    cell = flags + element(5, struct.pack("<ii", 1, 5), "<") + element(1, b"", "<")
    head = element(6, struct.pack("<II", 1, 0), "<")
    head += element(5, struct.pack("<ii", 1, 1), "<") + element(1, b"names", "<")
    matrix = element(14, head + element(14, cell + text, "<"), "<")
    assert matfile.read_names(bytes(124) + b"\x00\x01IM" + matrix, "names") == ["größe"]


def test_objects_of_another_structure_are_passed_over() -> None:
    content = saved(a=VALUES)
    flags = element(6, struct.pack("<II", 17, 0), "<")
    names = (element(1, name, "<") for name in (b"s", b"MCOS", b"string"))
    opaque = element(14, flags + b"".join(names), "<")
    found = matfile.read_matrix(content[:128] + opaque + content[128:], "a")
    np.testing.assert_array_equal(found, VALUES)


def test_a_variable_that_is_not_there_is_none() -> None:
    assert matfile.read_matrix(saved(a=VALUES), "b") is None
    assert matfile.read_names(saved(a=VALUES), "b") is None


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        ("text", "text"),
        (np.array(["a", "b"], object), "a cell array"),
        ({"x": 1}, "a struct"),
        (np.array([[1j]]), "complex"),
        (scipy.sparse.csc_array(np.eye(3)), "sparse"),
    ],
)
def test_what_is_no_matrix_says_what_it_is(value: Any, kind: str) -> None:
    with pytest.raises(matfile.OtherKind, match=kind):
        matfile.read_matrix(saved(a=value), "a")


@pytest.mark.parametrize("value", ["text", VALUES, np.array([VALUES, 2], object)])
def test_what_is_no_list_of_names_is_refused(value: Any) -> None:
    with pytest.raises(matfile.OtherKind):
        matfile.read_names(saved(a=value), "a")


def test_every_flipped_bit_of_compressed_data_is_seen() -> None:
    # adler32 is the last thing in it; scipy would not look at it
    content = saved(a=VALUES)
    for place in range(136, len(content)):
        with pytest.raises(ValueError, match=r"damaged compressed|does not end"):
            matfile.read_matrix(flipped(content, place), "a")


def test_compressed_data_that_swells_is_stopped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    content = saved(a=np.zeros((100, 100), np.uint8))
    assert len(content) < 500
    assert matfile.read_matrix(content, "a") is not None
    monkeypatch.setattr(matfile, "_LARGEST", 5000)
    with pytest.raises(ValueError, match="not in time"):
        matfile.read_matrix(content, "a")


def test_a_shape_that_asks_for_gigabytes_is_refused() -> None:
    content = saved(False, a=VALUES)
    shape = struct.pack("<ii", *VALUES.shape)
    for other in ((2, 4), (1 << 30, 1 << 30), (-2, -3)):
        with pytest.raises(ValueError, match=r"another size|without a shape"):
            matfile.read_matrix(content.replace(shape, struct.pack("<ii", *other)), "a")


def test_a_shape_of_another_number_of_names_is_refused() -> None:
    content = saved(False, label_list=np.array(["a", "b", "c"], object))
    shape, other = struct.pack("<ii", 1, 3), struct.pack("<ii", 1, 2)
    assert content.count(shape) == 1
    with pytest.raises(ValueError, match="another number of cells"):
        matfile.read_names(content.replace(shape, other), "label_list")


def test_a_small_element_holds_four_bytes_at_most() -> None:
    content = saved(False, a=VALUES)
    small = struct.pack("<HH", 1, 1) + b"a"
    assert content.count(small) == 1
    with pytest.raises(ValueError, match="ends in the middle"):
        matfile.read_matrix(
            content.replace(small, struct.pack("<HH", 1, 5) + b"a"), "a"
        )


@pytest.mark.parametrize("content", [b"", b"hello" * 40, bytes(300)])
def test_other_files_are_refused(content: bytes) -> None:
    with pytest.raises(ValueError, match="no MATLAB file of level 5"):
        matfile.read_matrix(content, "a")


def test_a_part_that_is_cut_short_is_refused() -> None:
    content = saved(False, a=VALUES)
    for length in range(129, len(content)):
        with pytest.raises(ValueError, match="ends in the middle"):
            matfile.read_matrix(content[:length], "a")
