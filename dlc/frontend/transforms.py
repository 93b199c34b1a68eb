"""Function transforms: gradients, forward derivatives, batching, loops and recomputation. They compose in any nesting.

`grad`, `vjp` and `jvp` need no trace of their own: the inputs are wrapped in `tag` nodes, at which the result is then
differentiated. `vmap`, `scan` and `checkpoint` trace the function for one example or one step.
"""

from __future__ import annotations


# --- reverse mode ------------------------------------------------------------------------------------------------


# --- forward mode ------------------------------------------------------------------------------------------------


# --- tracing a body ----------------------------------------------------------------------------------------------


# --- vmap --------------------------------------------------------------------------------------------------------


# --- scan --------------------------------------------------------------------------------------------------------


# --- checkpoint --------------------------------------------------------------------------------------------------


