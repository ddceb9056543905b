"""The h2 library, configured for the requests of the gateway."""

from __future__ import annotations

from typing import Any

import h2.config
import h2.connection
import h2.settings
from h2.settings import SettingCodes
from hpack import Decoder, Encoder
from hpack.exceptions import HPACKDecodingError
from hpack.hpack import encode_integer

from gateway.upstream.response_parser import MAX_HEADERS_BYTES

# A body waits to be taken within this window. Responses of at most this size reserve no memory.
WINDOW_BYTES = 1 << 20
FIRST_WINDOW_BYTES = 65_535

# Of HPACK: the size of the table is 0; a header that also proxies keep out of their tables.
TABLE_IS_EMPTY = b"\x20"
# RFC 7541, section 4.2: the smallest size since the last block, and the final one.
MAX_TABLE_SIZES = 2
NEVER_INDEXED = b"\x10"


class LiteralEncoder(Encoder):
    """Encodes headers as they are, in a tenth of the time of a compressed encoding.

    It keeps no headers, so that requests do not share a compression context and the upstream cannot make it grow.
    """

    def __init__(self) -> None:
        self._is_told = False

    @property
    def header_table_size(self) -> int:
        """The size of the table, which is not used."""
        return 0

    @header_table_size.setter
    def header_table_size(self, value: int) -> None:
        # The upstream expects to be told after it has changed the limit.
        self._is_told = False

    def encode(self, headers: Any, huffman: bool = True) -> bytes:
        """Encode a header block."""
        block = bytearray() if self._is_told else bytearray(TABLE_IS_EMPTY)
        self._is_told = True
        for name, value in headers:
            block += NEVER_INDEXED
            block += encode_integer(len(name), 7) + name
            block += encode_integer(len(value), 7) + value
        return bytes(block)


class LimitedDecoder(Decoder):
    """Decodes headers, of which few may change the size of the table.

    A change takes one byte, and more than a microsecond: as many as fit in a block would stop the event loop.
    """

    def __init__(self) -> None:
        super().__init__(MAX_HEADERS_BYTES)
        self._sizes = 0

    def decode(self, data: bytes, raw: bool = False) -> Any:
        """Decode a header block."""
        self._sizes = 0
        return super().decode(data, raw)

    @property
    def header_table_size(self) -> int:
        """The size of the table. The upstream sets it within a header block."""
        return super().header_table_size

    @header_table_size.setter
    def header_table_size(self, value: int) -> None:
        self._sizes += 1
        if self._sizes > MAX_TABLE_SIZES:
            raise HPACKDecodingError("too many changes of the table's size")
        self.header_table.maxsize = value


def http2_codec() -> h2.connection.H2Connection:
    """Return the codec of a new connection. Its preface is sent with the first request."""
    # Our own headers are valid, and of the upstream's, few are read.
    config = h2.config.H2Configuration(
        validate_outbound_headers=False, normalize_outbound_headers=False, validate_inbound_headers=False
    )
    codec = h2.connection.H2Connection(config)
    codec.encoder = LiteralEncoder()
    codec.decoder = LimitedDecoder()
    codec.local_settings = h2.settings.Settings(
        client=True,
        initial_values={
            SettingCodes.ENABLE_PUSH: 0,
            SettingCodes.INITIAL_WINDOW_SIZE: WINDOW_BYTES,
            SettingCodes.MAX_HEADER_LIST_SIZE: MAX_HEADERS_BYTES,
        },
    )
    # A setting of servers only.
    del codec.local_settings[SettingCodes.ENABLE_CONNECT_PROTOCOL]
    codec.initiate_connection()
    codec.increment_flow_control_window(WINDOW_BYTES - FIRST_WINDOW_BYTES)
    return codec
