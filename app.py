"""The page in the browser: ``python app.py``, then open the address it prints."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import socket
import sys
import tempfile
from pathlib import Path

from densepose_tools import ENGINES
from densepose_tools.engine_choice import EngineChoice
from magicanimate import __version__
from magicanimate.config import MediaLimits
from magicanimate.device import DEVICES, DTYPES
from magicanimate.errors import InputError
from magicanimate.memory.profiles import AUTO
from magicanimate.memory.profiles import NAMES as PROFILE_NAMES

EXAMPLES = Path(__file__).resolve().parent / "assets" / "examples"
_PORTS_TO_TRY = 100


def build_parser() -> argparse.ArgumentParser:
    """The options of the program."""
    parser = argparse.ArgumentParser(prog="app.py", description="MagicAnimate in the browser.")
    parser.add_argument(
        "--model", default="mini", metavar="mini|full|FOLDER", help="checkpoint (default: %(default)s)"
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument(
        "--port", type=int, default=7860, help="the next free one if taken (default: %(default)s)"
    )
    parser.add_argument(
        "--output", type=Path, default=Path("outputs"), help="folder of the results (default: ./%(default)s)"
    )
    parser.add_argument(
        "--queue", type=int, default=8, help="animations that may wait (default: %(default)s)"
    )
    parser.add_argument("--device", help=f"{', '.join(DEVICES)} (default: the fastest found)")
    parser.add_argument("--dtype", choices=DTYPES, help="number format (default: what suits the device)")
    parser.add_argument(
        "--memory",
        default=AUTO,
        choices=(AUTO, *PROFILE_NAMES),
        help="how to spend memory, from roomy to tight (default: by what is free)",
    )
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
    parser.add_argument("--share", action="store_true", help="make a public link through Gradio's servers")
    parser.add_argument("--version", action="version", version=f"MagicAnimate {__version__}")
    return parser


def free_port(host: str, first: int) -> int:
    """The first port from ``first`` on that nobody listens on.

    Raises:
        InputError: none of a hundred is free, or the address is not this machine's.
    """
    for port in range(first, min(first + _PORTS_TO_TRY, 65536)):
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
            if os.name != "nt":  # there it would let two programs share a port
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except OSError:
                continue
            return port
    raise InputError(f"No port of {host} from {first} on is free; choose another with --port.")


def bypass_proxy(host: str) -> None:
    """Keep a proxy out of the way to our own address, which Gradio calls once when it starts."""
    for name in ("no_proxy", "NO_PROXY"):
        own = (os.environ.get(name), "localhost", "127.0.0.1", host)
        os.environ[name] = ",".join(filter(None, own))


def serve(args: argparse.Namespace, scratch: Path) -> None:
    """Show the page until interrupted; ``scratch`` holds uploads.

    Raises:
        InputError: the checkpoint, the folder or the address cannot be used.
    """
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # these two are read when gradio is imported
    os.environ["GRADIO_TEMP_DIR"] = str(scratch)
    bypass_proxy(args.host)
    port = free_port(args.host, args.port)
    output = args.output.expanduser().resolve()
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"The folder {output} cannot be made ({error.strerror}); choose another.") from error
    from magicanimate.ui import theme, views
    from magicanimate.ui.page import Page, find_examples
    from magicanimate.ui.studio import Studio

    engine = EngineChoice(args.densepose, args.densepose_weights, args.device, args.offline)
    studio = Studio(
        args.model,
        output,
        device=args.device,
        dtype=args.dtype,
        offline=args.offline,
        memory=args.memory,
        engine=engine,
    )
    page = Page(studio, find_examples(EXAMPLES), queue_size=args.queue)
    try:
        page.blocks.launch(
            server_name=args.host,
            server_port=port,
            share=args.share,
            theme=theme.make(),
            css_paths=views.STYLE,
            allowed_paths=[str(output), str(EXAMPLES)],
            max_file_size=MediaLimits().max_file_bytes,
            footer_links=[],
            run_history=False,
            ssr_mode=False,
            quiet=True,
            prevent_thread_lock=True,
        )
        print(f"MagicAnimate runs on {page.blocks.local_url}  (Ctrl-C ends it)", flush=True)
        if page.blocks.share_url:
            print(f"Public link: {page.blocks.share_url}", flush=True)
        studio.start_loading()
        page.blocks.block_thread()
    finally:
        studio.close()


def main(argv: list[str] | None = None) -> int:
    """Run the program; returns the exit status."""
    args = build_parser().parse_args(argv)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # so that uploads are removed then, too
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    for name in ("magicanimate", "densepose_tools"):
        logging.getLogger(name).setLevel(logging.INFO)
    try:
        with tempfile.TemporaryDirectory(prefix="magicanimate-", ignore_cleanup_errors=True) as scratch:
            serve(args, Path(scratch))
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
