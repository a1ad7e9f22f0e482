"""python -m jaxrec.data.text: the former name of python -m jaxrec.text."""

import runpy

runpy.run_module("jaxrec.text", run_name="__main__", alter_sys=True)
