"""What `make gpu` measures beyond the ops: whole training steps (`step`), and all of it in a table
(`summary`). tools/gpu.py runs the parts.
"""
