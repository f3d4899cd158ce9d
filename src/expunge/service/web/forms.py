"""What a browser sends: forms with fields and files, of a limited size."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from email.parser import BytesParser
from email.policy import HTTP
from urllib.parse import parse_qsl

from starlette.requests import Request as HttpRequest

from expunge.functional.brief import brief

LARGEST = 20 << 20  # bytes of a form with its files
FIELDS = 100
URLENCODED, MULTIPART = "application/x-www-form-urlencoded", "multipart/form-data"


class BadForm(Exception):
    """A form that is not read. status: of HTTP."""

    def __init__(self, sentence: str, status: int = 400) -> None:
        super().__init__(sentence)
        self.status = status


@brief()
@dataclass(frozen=True)
class Form:
    """The fields of a form by name, the last one of each, and the contents of its files."""

    fields: Mapping[str, str]
    files: Mapping[str, bytes]

    def __getitem__(self, name: str) -> str:
        return self.fields.get(name, "").strip()


async def read(request: HttpRequest) -> Form:
    """The form of a request. Raises: BadForm for another kind of body, and one that is too large or damaged."""
    header = request.headers.get("content-type", "")
    kind = header.partition(";")[0].strip().lower()
    if kind not in (URLENCODED, MULTIPART):
        raise BadForm("a form is sent as a browser sends it", 415)
    content = bytearray()
    async for chunk in request.stream():
        content += chunk
        if len(content) > LARGEST:
            raise BadForm(f"a form has at most {LARGEST >> 20} MB", 413)
    try:
        return _urlencoded(bytes(content)) if kind == URLENCODED else _multipart(header, bytes(content))
    except (ValueError, LookupError, TypeError, AttributeError):
        raise BadForm("this form is damaged") from None


def _urlencoded(content: bytes) -> Form:
    pairs = parse_qsl(content.decode(), keep_blank_values=True, max_num_fields=FIELDS, errors="strict")
    return Form(dict(pairs), {})


def _multipart(header: str, content: bytes) -> Form:
    """Parts of MIME, which the standard library reads."""
    whole = BytesParser(policy=HTTP).parsebytes(b"Content-Type: " + header.encode("ascii") + b"\r\n\r\n" + content)
    fields, files = dict[str, str](), dict[str, bytes]()
    for part in list(whole.iter_parts())[:FIELDS]:
        name = part.get_param("name", header="content-disposition")
        body = part.get_payload(decode=True)
        if not isinstance(name, str) or not isinstance(body, bytes):
            raise ValueError
        if part.get_filename() is None:
            fields[name] = body.decode()
        else:
            files[name] = body
    return Form(fields, files)
