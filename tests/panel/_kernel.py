"""A kernel, and all that it says."""

from __future__ import annotations

import contextlib
import queue
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.manager import KernelManager

from tests._kernels import environment

ANSWER_SECONDS = 60.0


@dataclass
class Kernel:
    """Hold a running kernel, and what it published, message by message with its bytes on the wire."""

    manager: KernelManager
    client: BlockingKernelClient
    messages: list[dict[str, Any]] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)

    def listen(self, seconds: float) -> dict[str, Any] | None:
        """Give the next message that is published, ``None`` where none comes in time."""
        socket = self.client.iopub_channel.socket
        if not socket.poll(max(1, round(seconds * 1000))):
            return None
        frames = socket.recv_multipart()
        _, parts = self.client.session.feed_identities(frames)
        message: dict[str, Any] = self.client.session.deserialize(parts)
        self.messages.append(message)
        self.sizes.append(sum(len(frame) for frame in frames))
        return message

    def begin(self, code: str) -> str:
        """Start a cell, and give its id."""
        return str(self.client.execute(code))

    def finish(self, cell: str, seconds: float = ANSWER_SECONDS) -> str:
        """Wait until a cell has run, and give what it printed; a cell that raised gives its error's last line."""
        said = ""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            message = self.listen(end - time.monotonic())
            if message is None or message["parent_header"].get("msg_id") != cell:
                continue
            content = message["content"]
            if message["msg_type"] == "stream" and content["name"] == "stdout":
                said += content["text"]
            elif message["msg_type"] == "error":
                said += f"{content['ename']}: {content['evalue']}"
            elif message["msg_type"] == "status" and content["execution_state"] == "idle":
                return said.strip()
        raise AssertionError(f"the cell did not end in {seconds} s")

    def run(self, code: str) -> str:
        """Run a cell to its end."""
        return self.finish(self.begin(code))

    def say(self, comm: str, content: dict[str, Any]) -> None:
        """Send a widget a custom message, as its view in a browser does."""
        data = {"method": "custom", "content": content}
        self.client.shell_channel.send(self.client.session.msg("comm_msg", {"comm_id": comm, "data": data}))

    def set(self, comm: str, **state: Any) -> None:
        """Set traits of a widget, as its view in a browser does."""
        data = {"method": "update", "state": state, "buffer_paths": []}
        self.client.shell_channel.send(self.client.session.msg("comm_msg", {"comm_id": comm, "data": data}))

    def comms(self, name: str) -> list[str]:
        """Give the ids of the widgets whose class, or model, has a name."""
        found = []
        for message in self.messages:
            if message["msg_type"] == "comm_open":
                state = message["content"]["data"]["state"]
                if name in (state.get("_anywidget_id", "").rsplit(".", 1)[-1], state.get("_model_name")):
                    found.append(message["content"]["comm_id"])
        return found

    def state(self, comm: str) -> dict[str, Any]:
        """Give a widget's traits as they were published last."""
        state: dict[str, Any] = {}
        for message in self.messages:
            content = message["content"]
            if content.get("comm_id") == comm and content.get("data", {}).get("method", "update") == "update":
                data = content["data"]
                state |= data["state"]
                for path, buffer in zip(data.get("buffer_paths", []), message["buffers"], strict=True):
                    state[path[0]] = bytes(buffer)
        return state

    def heard(self, comm: str) -> list[dict[str, Any]]:
        """Give the custom messages that a widget has sent to its views."""
        datas = [m["content"]["data"] for m in self.messages if m["content"].get("comm_id") == comm]
        return [data["content"] for data in datas if data.get("method") == "custom"]

    def enabled(self, grid: str) -> list[str]:
        """Give the ids of the buttons of a grid that can be pressed."""
        return [action["id"] for action in self.state(grid)["info"]["actions"] if action["enabled"]]

    def until(self, is_true: Any, seconds: float = ANSWER_SECONDS) -> None:
        """Listen until something has become true, and fail when it does not in time."""
        end = time.monotonic() + seconds
        while not is_true():
            assert time.monotonic() < end, f"not true within {seconds} s"
            self.listen(0.2)


@contextlib.contextmanager
def kernel(home: Path) -> Iterator[Kernel]:
    """Run a kernel in a folder of its own."""
    env = environment(home)
    manager = KernelManager(kernel_name="python3")
    manager.kernel_spec_manager.kernel_dirs = [str(home / "data" / "kernels")]
    manager.connection_file = str(home / "kernel.json")
    work = home / "work"
    work.mkdir(exist_ok=True)
    manager.start_kernel(env=env, cwd=str(work))
    client = manager.blocking_client()
    client.start_channels()
    try:
        client.wait_for_ready(timeout=ANSWER_SECONDS)
        end = time.monotonic() + ANSWER_SECONDS
        with contextlib.suppress(queue.Empty):
            while time.monotonic() < end:
                client.get_iopub_msg(timeout=0.1)
        yield Kernel(manager, client)
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
        manager.cleanup_resources()
