"""The swarm over libp2p: connections, streams of frames, gossip, the directory. Its types stay in this package."""
