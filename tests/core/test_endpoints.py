"""The table of what may reach an engine, and above all what may not."""

import pytest

from node.core.endpoints import ROUTES, Dialect, dialect_of, find

# Routes of vLLM 0.32 that are administration, development, or nobody's business beyond the node.
CLOSED = (
    "/v1/load_lora_adapter", "/v1/unload_lora_adapter", "/sleep", "/wake_up", "/is_sleeping", "/reset_prefix_cache",
    "/reset_mm_cache", "/reset_encoder_cache", "/start_profile", "/stop_profile", "/collective_rpc", "/server_info",
    "/load", "/metrics", "/pause", "/resume", "/abort_requests", "/update_weights", "/init_weight_transfer_engine",
    "/scale_elastic_ep", "/invocations", "/ping", "/inference/v1/generate", "/tokenizer_info", "/kv_event_sources",
    "/fault_tolerance/apply", "/release_kv_cache_memory", "/v1/chat/completions/batch", "/docs", "/openapi.json",
    "/v1/chat/completions/render", "/pooling", "/classify",
)  # fmt: skip


@pytest.mark.parametrize("path", CLOSED)
def test_engine_administration_is_never_let_through(path: str) -> None:
    assert find(path) is None


@pytest.mark.parametrize("path", [route.name for route in ROUTES if "{" not in route.name])
def test_each_endpoint_has_one_spelling(path: str) -> None:
    assert find(path) is not None
    for other in (path + "/", "/" + path, path.replace("/", "//", 1), path.upper(), path.replace("s", "%73", 1)):
        assert other == path or find(other) is None


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/v1/models/org/model-1.5B", "/v1/models/{id}"),
        ("/v1/models/tiny@sha256:0a", "/v1/models/{id}"),
        ("/v1/responses/resp_1", "/v1/responses/{id}"),
        ("/v1/responses/resp_1/cancel", "/v1/responses/{id}/cancel"),
    ],
)
def test_ids_are_let_through(path: str, name: str) -> None:
    route = find(path)
    assert route is not None
    assert route.name == name


@pytest.mark.parametrize(
    "path",
    [
        "/v1/models/..", "/v1/models/../load", "/v1/models/a/../../../load", "/v1/models/.", "/v1/models/a/./b",
        "/v1/models/%2e%2e/load", "/v1/models/a%2f..", "/v1/models/", "/v1/models/a//b", "/v1/models/a?b",
        "/v1/responses/../cancel", "/v1/responses/a/b/cancel", "/v1/responses/" + "a" * 300, "/v1/models/a\\..",
    ],
)  # fmt: skip
def test_ids_cannot_climb_out_of_their_place(path: str) -> None:
    assert find(path) is None


def test_errors_of_unknown_paths_speak_the_dialect_of_their_neighbourhood() -> None:
    assert dialect_of("/v1/messages/unknown") is Dialect.MESSAGES
    assert dialect_of("/v1/unknown") is Dialect.OPENAI
