"""libp2p in this suite: its announcements of other people's deprecations are not our warnings."""

import warnings

with warnings.catch_warnings():  # libp2p 0.8.1 imports a part of websockets that announces its end
    warnings.simplefilter("ignore", DeprecationWarning)
    import libp2p  # noqa: F401
