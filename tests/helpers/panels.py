"""What the browser sends when the user moves something in a panel."""

from pruneviz.panels.kit.web_panel import WebPanel


def user_moves(panel, value, name, drag=0, **more):
    """Move a control as the browser does; `drag`: the number of the drag that it belongs to."""
    if not isinstance(panel, WebPanel):
        panel.controls[name].set_state({"value": value})
        return
    state = panel.view.state
    moved = {name: value, "moved": name, "drag": drag, "n": state["n"] + 1, "who": "browser"}
    if name in state and "by" in state and name in ("threshold", "sparsity"):
        moved["by"] = name  # what `reduce` of web/state.js adds
    panel.view.set_state({"state": {**state, **moved, **more}})
