import struct

import av
import numpy as np
import pytest

from services.camera.h264 import Encoder, Packetizer, split_annex_b


def picture(seed: int, height: int = 144, width: int = 176) -> np.ndarray:
    """Noise: the hardest to compress, so that slices outgrow a packet."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def reassembled(packets: list[bytes]) -> list[bytes]:
    """NAL units of RTP packets, written from RFC 6184 and not from the packetizer."""
    units: list[bytes] = []
    for packet in packets:
        payload = packet[12:]
        if payload[0] & 0x1F != 28:
            units.append(payload)
        elif payload[1] & 0x80:
            units.append(bytes([(payload[0] & 0xE0) | (payload[1] & 0x1F)]) + payload[2:])
        else:
            units[-1] += payload[2:]
    return units


def sequence_of(packet: bytes) -> int:
    return int(struct.unpack("!H", packet[2:4])[0])


def test_every_picture_is_an_access_unit_at_once_and_can_be_decoded():
    encoder = Encoder(144, 176, 10)
    decoder = av.CodecContext.create("h264", "r")
    decoder.thread_count = 1
    decoder.flags |= av.codec.context.Flags.low_delay
    flat = np.full((144, 176, 3), 90, np.uint8)
    for number in range(25):
        shown = flat.copy()
        shown[:, : number * 6] = 200
        access_unit = encoder.encode(shown, key=False)
        data = b"".join(b"\x00\x00\x00\x01" + unit for unit in access_unit.units)
        (frame,) = decoder.decode(av.Packet(data))
        error = np.abs(frame.to_ndarray(format="rgb24").astype(int) - shown)
        assert np.median(error) < 6


def test_a_key_frame_comes_each_second_and_when_asked_for():
    encoder = Encoder(144, 176, 10)
    asked = 14
    keys = [n for n in range(20) if encoder.encode(picture(0), key=n == asked).is_key]
    assert keys[:2] == [0, 10]
    assert asked in keys


def test_an_access_unit_that_stands_alone_brings_its_parameter_sets():
    encoder = Encoder(144, 176, 10)
    access_unit = encoder.encode(picture(0), key=True)
    assert access_unit.units[:2] == (encoder.sps, encoder.pps)
    assert not encoder.encode(picture(0), key=False).is_key


@pytest.mark.parametrize("size", [(15, 16), (16, 15), (8, 64)])
def test_sizes_that_h264_cannot_hold_are_refused(size: tuple[int, int]):
    with pytest.raises(ValueError, match="size"):
        Encoder(*size, 10)


def test_packets_hold_the_units_whole_and_each_fits_a_network_packet():
    encoder, packetizer = Encoder(144, 176, 10), Packetizer(ssrc=7)
    access_unit = encoder.encode(picture(1), key=True)
    assert max(map(len, access_unit.units)) > 5000
    packets = packetizer.packets(access_unit.units, timestamp=9000)
    assert max(map(len, packets)) <= 1412
    assert reassembled(packets) == list(access_unit.units)


def test_packets_are_numbered_without_a_hole_and_wrap():
    packetizer = Packetizer(ssrc=7)
    packetizer.next_sequence = 0xFFFE
    packets = [p for n in range(3) for p in packetizer.packets([b"\x65" + b"x" * 3000], n * 9000)]
    assert [sequence_of(p) for p in packets] == [(0xFFFE + n) & 0xFFFF for n in range(len(packets))]


def test_only_the_last_packet_of_a_picture_carries_the_marker():
    packets = Packetizer(ssrc=7).packets([b"\x67abc", b"\x65" + b"x" * 3000], 0)
    assert [bool(packet[1] & 0x80) for packet in packets] == [False] * (len(packets) - 1) + [True]


def test_annex_b_is_split_at_both_kinds_of_start_code():
    assert split_annex_b(b"\x00\x00\x00\x01\x67ab\x00\x00\x01\x68c\x00\x00\x00\x01\x65dd") == [
        b"\x67ab",
        b"\x68c",
        b"\x65dd",
    ]
    assert split_annex_b(b"") == []


def test_a_sender_report_ties_the_two_clocks():
    packetizer = Packetizer(ssrc=0xABCDEF01)
    packetizer.packets([b"\x65abc"], 5)
    report = packetizer.sender_report(wall_s=1_700_000_000.5, timestamp=90_000)
    kind, length, ssrc, seconds, fraction, timestamp, packets, octets = struct.unpack("!xBHIIIIII", report)
    assert (kind, length * 4 + 4, ssrc) == (200, len(report), 0xABCDEF01)
    assert (seconds - 2_208_988_800, fraction) == (1_700_000_000, 2**31)
    assert (timestamp, packets, octets) == (90_000, 1, 4)
