"""Moving over from vLLM's own `fs` tier with a warm cache, and back. The tier is named as the plugin registers it."""

from conftest import PosixStorage, cached, full_chunks, tokens

OLD, NEW = [[40, 1300], [41, 700]], [[42, 900]]


class VllmFolder(PosixStorage):
    def tiers(self, host):
        return [{"backend": "posix", "root": str(self.data), "layout": "vllm-fs", "adopt": True}]


def test_each_reads_what_the_other_wrote(servers, engines, tmp_path):
    folder = tmp_path / "kv"
    server = servers(VllmFolder(folder))
    theirs, ours = (
        engines({"tier": tier})
        for tier in ({"type": "fs", "root_dir": str(folder)}, {"type": "kvferry", "socket": server.socket})
    )
    assert theirs.ready() and ours.ready()
    old = theirs.run(*OLD)
    assert theirs("settle")["settled"] and cached(old) == [0, 0]

    adopted = ours.run(*OLD)
    assert tokens(adopted) == tokens(old) and cached(adopted) == full_chunks(OLD)

    new = ours.run(*NEW)
    assert ours("settle")["settled"] and cached(new) == [0]
    back = theirs.run(*NEW)
    assert tokens(back) == tokens(new) and cached(back) == full_chunks(NEW)
