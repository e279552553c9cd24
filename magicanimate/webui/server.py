"""Starts the program in the browser: ``python app.py`` or ``magicanimate-web``."""

from __future__ import annotations

import argparse
import logging
import os
import socket
import sys
import threading
import time
import webbrowser
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from densepose_tools import ENGINES
from densepose_tools.engine_choice import EngineChoice
from magicanimate import ASSETS, __version__
from magicanimate.acceleration.options import COMPILE
from magicanimate.config import MediaLimits, ShouldStop
from magicanimate.device import DEVICES, DTYPES, import_diffusers, without_collection
from magicanimate.errors import InputError
from magicanimate.memory import AUTO
from magicanimate.memory import NAMES as PROFILE_NAMES
from magicanimate.progress import exit_status, stop_on_interrupt
from magicanimate.webui import texts
from magicanimate.webui.scratch import FOLDER_VARIABLE, Scratch

if TYPE_CHECKING:
    import gradio as gr
    from starlette.types import ASGIApp, Receive, Scope, Send

    from magicanimate.webui.page import Page
    from magicanimate.webui.security import Access
    from magicanimate.webui.service import AnimationService

EXAMPLES = ASSETS / "examples"
_PORTS_TO_TRY = 100


def build_parser() -> argparse.ArgumentParser:
    """The options of the program."""
    parser = argparse.ArgumentParser(description="MagicAnimate in the browser.")
    parser.add_argument(
        "--model", default="mini", metavar="mini|full|FOLDER", help="checkpoint (default: %(default)s)"
    )
    parser.add_argument(
        "--port",
        type=_number(int, 1, 65535),
        default=7860,
        help="the next free one if taken (default: %(default)s)",
    )
    parser.add_argument(
        "--output", type=Path, default=Path("outputs"), help="folder of the results (default: ./%(default)s)"
    )
    parser.add_argument(
        "--queue",
        type=_number(int, 1, 10_000),
        default=8,
        help="animations that may wait (default: %(default)s)",
    )
    parser.add_argument(
        "--unload-after",
        type=_number(float, 0, 1e6),
        default=30.0,
        metavar="MINUTES",
        help="time without work after which the networks leave the memory; 0: never (default: %(default)g)",
    )
    parser.add_argument("--device", help=f"{', '.join(DEVICES)} (default: the fastest found)")
    parser.add_argument("--dtype", choices=DTYPES, help="number format (default: what suits the device)")
    parser.add_argument(
        "--memory",
        default=AUTO,
        choices=(AUTO, *PROFILE_NAMES),
        help="how to spend memory, from roomy to tight (default: by what is free)",
    )
    parser.add_argument("--compile", action="store_true", help=COMPILE)
    parser.add_argument("--offline", action="store_true", help="never ask the network for weights")
    parser.add_argument(
        "--densepose", choices=ENGINES, default="auto", help="what finds the people of an ordinary video"
    )
    parser.add_argument(
        "--densepose-weights",
        type=Path,
        metavar="FILE",
        help="the released model_final_162be9.pkl, if you have it (default: fetched when it is needed)",
    )
    parser.add_argument(
        "--no-browser",
        action="store_true",
        help="do not open the page in a browser (on a desktop it is opened)",
    )
    parser.add_argument(
        "--lang",
        choices=texts.LANGUAGES,
        default="en",
        help="language of the page (default: %(default)s, English)",
    )
    _add_access(parser)
    parser.add_argument("--version", action="version", version=f"MagicAnimate {__version__}")
    return parser


def _number(kind: type, low: float, high: float) -> Callable[[str], float]:
    """A type for argparse: a number from ``low`` to ``high``, both included."""

    def number(text: str) -> float:
        value = kind(text)
        if not low <= value <= high:  # also refuses "not a number"
            raise argparse.ArgumentTypeError(f"{text} is not between {low:g} and {high:g}")
        return value

    number.__name__ = {int: "whole number", float: "number"}[kind]  # for argparse's own sentence
    return number


def _add_access(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group(
        "letting others in", "Without these only this computer reaches the page."
    )
    group.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    group.add_argument("--share", action="store_true", help="make a public link through Gradio's servers")
    group.add_argument(
        "--auth", metavar="NAME:PASSWORD|FILE", help="who may log in; a file has one NAME:PASSWORD a line"
    )
    group.add_argument(
        "--allow-origin",
        action="append",
        default=[],
        metavar="https://NAME",
        help="another site that may use the page, or the page's own name behind a proxy; may be repeated",
    )


def free_port(host: str, first: int) -> int:
    """The first port from ``first`` on that is free.

    Raises:
        InputError: none of a hundred is free, or the address is not this machine's.
    """
    for port in range(first, min(first + _PORTS_TO_TRY, 65536)):
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
            # A port can be used again at once after a restart; on Windows two programs could share it.
            if os.name != "nt":
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except OSError:
                continue
            return port
    raise InputError(f"No port of {host} from {first} on is free; choose another with --port.")


def bypass_proxy(host: str) -> None:
    """Exempt our own address, which Gradio calls once when it starts, from a proxy of the environment."""
    for name in ("no_proxy", "NO_PROXY"):
        own = (os.environ.get(name), "localhost", "127.0.0.1", host)
        os.environ[name] = ",".join(filter(None, own))


def only_here(args: argparse.Namespace) -> bool:
    """Whether only this computer can reach the page, not even a proxy on it lets others in."""
    from magicanimate.webui.security import is_loopback

    return is_loopback(args.host) and not (args.share or args.auth or args.allow_origin)


@contextmanager
def running(args: argparse.Namespace, scratch: Scratch) -> Iterator[tuple[gr.Blocks, AnimationService]]:
    """Serve the page in a thread as long as the context lasts; ``scratch`` holds the uploads.

    Raises:
        InputError: the model, the folder or the address cannot be used.
    """
    from magicanimate.webui.security import Access, exposure_warnings, is_loopback, parse_accounts

    # Gradio reads these two when it is imported, which is why no import of it is at the top of this file.
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ[FOLDER_VARIABLE] = str(scratch.folder)
    bypass_proxy(args.host)
    access = Access(args.host, origins=args.allow_origin)
    accounts = parse_accounts(args.auth) if args.auth else None
    for warning in exposure_warnings(args.host, share=args.share, accounts=bool(accounts)):
        print(f"warning: {warning}", file=sys.stderr, flush=True)
    output = args.output.expanduser().resolve()
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"The folder {output} cannot be made ({error.strerror}); choose another.") from error
    shared = args.share or bool(accounts) or not is_loopback(args.host)
    texts.use(args.lang)
    with without_collection():
        from magicanimate.webui.animate.tab import find_examples
        from magicanimate.webui.page import Page
        from magicanimate.webui.service import AnimationService

        service = AnimationService(
            args.model,
            output,
            device=args.device,
            dtype=args.dtype,
            offline=args.offline,
            memory=args.memory,
            compile=args.compile,
            engine=EngineChoice(args.densepose, args.densepose_weights, args.device, args.offline),
            most_waiting=args.queue,
            unload_after=args.unload_after,
            shared=shared,
        )
        page = Page(service, find_examples(EXAMPLES), queue_size=args.queue, training=only_here(args))
    try:
        with without_collection():
            # Results need keys where several people use the program, since their names can be guessed.
            open_folders = [scratch.folder, EXAMPLES] if shared else None
            launch(page, args, access, accounts, scratch=scratch, open_folders=open_folders)
        if page.blocks.share_url:
            access.allow(page.blocks.share_url)
        yield page.blocks, service
    finally:
        if server := getattr(page.blocks, "server", None):
            # Uvicorn would wait for open pages, which listen without end, and log each that it cuts off.
            server.force_exit = True
            logging.getLogger("uvicorn.error").disabled = True
        page.blocks.close(verbose=False)
        service.close(wait=False)


def has_desktop(environment: Mapping[str, str], platform: str, terminal: bool) -> bool:
    """Whether somebody sits in front of this machine's screen, so that a browser window can be opened.

    Args:
        environment: variables of the program.
        platform: `sys.platform`.
        terminal: whether the program writes to a terminal, which tests and services do not.
    """
    if not terminal or any(environment.get(name) for name in ("SSH_CONNECTION", "SSH_TTY", "CI")):
        return False
    if platform in ("win32", "darwin"):
        return True
    return any(environment.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY"))


class AllStyles:
    """ASGI middleware: serves all of Gradio's style sheets as one file, compressed.

    Args:
        app: Gradio's.
        name: of the file, beside the others, so that addresses in them stay right.
        sheets: the style sheets.
    """

    def __init__(self, app: ASGIApp, *, name: str, sheets: Sequence[Path]):
        from starlette.middleware.gzip import GZipMiddleware
        from starlette.responses import Response

        styles = b"\n".join(sheet.read_bytes() for sheet in sheets)
        headers = {"Cache-Control": "public, max-age=3600"}  # the name stays when Gradio changes

        async def answer(scope: Scope, receive: Receive, send: Send) -> None:
            # A new one each time, since its headers are changed when it is compressed.
            await Response(styles, media_type="text/css", headers=headers)(scope, receive, send)

        self.app, self.path = app, f"/assets/{name}"
        self._styles = GZipMiddleware(answer)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        wanted = scope["type"] == "http" and scope["path"] == self.path
        await (self._styles if wanted else self.app)(scope, receive, send)


def launch(
    page: Page,
    args: argparse.Namespace,
    access: Access,
    accounts: list[tuple[str, str]] | None,
    *,
    scratch: Scratch,
    open_folders: list[Path] | None,
) -> None:
    """Start the server of a page in a thread of its own, behind `magicanimate.webui.security.Guard`."""
    from starlette.middleware import Middleware

    from magicanimate.webui import views
    from magicanimate.webui.gallery.result_panel import ALL_STYLES, head, style_sheets
    from magicanimate.webui.page import theme
    from magicanimate.webui.security import Guard, Login

    guard = Middleware(Guard, access=access, scratch=scratch, open_folders=open_folders)
    styles = Middleware(AllStyles, name=ALL_STYLES, sheets=style_sheets())
    page.blocks.launch(
        server_name=args.host,
        server_port=free_port(args.host, args.port),
        share=args.share,
        auth=Login(accounts).admits if accounts else None,
        auth_message=views.title(),
        theme=theme(),
        css_paths=[views.STYLE],
        head=head(args.lang),
        # Gradio serves files from its temporary folder and from these; the queue's folder lies in the first
        # one and holds everybody's uploads.
        allowed_paths=[str(page.service.output), str(EXAMPLES)],
        blocked_paths=[str(page.service.queue.folder)],
        max_file_size=MediaLimits().max_file_bytes,
        app_kwargs={"middleware": [guard, styles]},
        enable_monitoring=False,
        footer_links=[],
        run_history=False,
        ssr_mode=False,  # renders pages by Node, which would have to be installed
        quiet=True,
        prevent_thread_lock=True,  # returns at once
    )


def serve(args: argparse.Namespace, scratch: Scratch, should_stop: ShouldStop) -> None:
    """Show the page until ``should_stop()``; see `running`."""
    with running(args, scratch) as (blocks, service):
        print(f"MagicAnimate runs on {blocks.local_url}  (Ctrl-C ends it)", flush=True)
        if blocks.share_url:
            print(f"Public link: {blocks.share_url}", flush=True)
        if (
            not args.no_browser
            and only_here(args)
            and has_desktop(os.environ, sys.platform, sys.stdout.isatty())
        ):
            threading.Thread(target=webbrowser.open, args=(blocks.local_url,), daemon=True).start()
        service.start_loading(import_diffusers)
        while not should_stop() and blocks.is_running:
            time.sleep(0.1)
        if blocks.share_url:
            from gradio.tunneling import CURRENT_TUNNELS

            for tunnel in CURRENT_TUNNELS:
                tunnel.kill()


def main(argv: list[str] | None = None) -> int:
    """Run the program; returns the exit status."""
    args = build_parser().parse_args(argv)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    for name in ("magicanimate", "densepose_tools"):
        logging.getLogger(name).setLevel(logging.INFO)

    def run() -> None:
        with stop_on_interrupt() as should_stop, Scratch() as scratch:
            serve(args, scratch, should_stop)

    return exit_status(run)


def run_program() -> None:
    """Run `main` and end the process with its exit status."""
    status = main()
    # Everything is closed now. An ordinary exit would still wait for threads that load networks or serve
    # pages, and a second Ctrl-C meanwhile would print a traceback.
    for stream in filter(None, (sys.stdout, sys.stderr)):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(status)
