"""Starts the program in the browser: ``python app.py``. All of it is in `magicanimate.webui`."""

from magicanimate.webui.server import run_program

if __name__ == "__main__":
    run_program()
