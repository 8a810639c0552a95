"""Every bound of the wire: name, unit, reason. Knows no codec; docs/protocol/ states the same numbers.

A peer that exceeds one is refused before memory is spent on it. A bound is part of the protocol: raising one is
a change of the specification, because older nodes will refuse what newer ones send.
"""

from dataclasses import dataclass
from typing import Final

KIB: Final = 1024
MIB: Final = 1024 * KIB
SECOND_US: Final = 1_000_000
DAY_US: Final = 24 * 3600 * SECOND_US

# -- numbers and identities

# The largest integer that every language's JSON and every IEEE double carries exactly. As microseconds since
# 1970 it reaches the year 2255; as a sequence number, 9,000 years of one record every 32 µs.
EXACT_INT_MAX: Final = 2**53 - 1
TIME_MAX_US: Final = EXACT_INT_MAX
SEQ_MAX: Final = EXACT_INT_MAX
PUBLIC_KEY_BYTES: Final = 32  # Ed25519, RFC 8032
SIGNATURE_BYTES: Final = 64  # Ed25519, RFC 8032
DIGEST_BYTES: Final = 32  # SHA-256
PEER_ID_BYTES: Final = 38  # identity multihash (2) of the protobuf public key (4 + 32)
PEER_ID_CHARS: Final = 52  # what base58btc makes of these 38 bytes, always
SWARM_ID_CHARS: Final = 63  # one DNS label, so that a swarm can be named in DNS and in a topic
MODEL_NAME_CHARS: Final = 255  # hub ids are at most 96 + 1 + 96 characters; local paths are longer

# -- framing

FRAME_PREFIX_BYTES: Final = 4  # a big-endian uint32, as in HTTP/2's and Kafka's lineage; more is never needed
# One frame is held whole in memory, per stream, for up to 256 streams of a connection. 1 MiB is also the message
# bound of gossipsub and of libp2p's own request helpers.
FRAME_BYTES: Final = MIB

# -- values

# Deepest real body is stamp/hardware/accelerators/item/field: 5. 16 leaves room and no stack to attack.
NESTING: Final = 16
# Values in one message or record, keys included. An empty map is 1 byte on the wire and 160 while it is decoded:
# a frame full of them would take 160 MiB; 4096 of them take 0.6 MiB.
VALUES: Final = 4096
ITEMS: Final = 1024  # entries of one array or map: the longest, a list of addresses or batches, has dozens
TEXT_BYTES: Final = 16 * KIB  # one text: an error message or a chat template's name, never a prompt
BLOB_BYTES: Final = FRAME_BYTES  # one byte string: the frame bounds it

# -- records

# A performance record is about 2 KiB, an advert with 16 addresses about 4 KiB. 16 KiB bounds what one author can
# make everybody store and forward with one signature; 64 ordinary ones fit into a gossip message.
RECORD_BYTES: Final = 16 * KIB
KIND_CHARS: Final = 32  # name of a kind of record, part of the signature's prefix
# How far a sender's clock may be ahead of ours. Machines without NTP drift by seconds a day; five minutes is what
# Kerberos allows, and a node whose clock is further off is told so by `doctor`.
CLOCK_SKEW_US: Final = 300 * SECOND_US
LIFETIME_MAX_US: Final = 400 * DAY_US  # from time to expiry: a year of history and a margin; kinds may ask for less

# -- the inference exchange

# What vision prompts need: a few base64 images of some MiB. Text prompts of 128k tokens are below 1 MiB.
BODY_BYTES: Final = 32 * MIB
# Bytes of an answer in all. Embeddings of 2048 inputs by 4096 dimensions as JSON text are about 190 MB.
ANSWER_BYTES: Final = 256 * MIB
PART_BYTES: Final = FRAME_BYTES - KIB  # data of one Body or Data: a frame less its field names and unknown fields
HEADERS: Final = 32  # header lines that may travel; clients' SDKs send a dozen, most of which stay behind
HEADER_NAME_BYTES: Final = 64
HEADER_VALUE_BYTES: Final = 4 * KIB  # the longest allowed to travel is `tracestate`, 512 by its standard
HEADERS_BYTES: Final = 16 * KIB  # names and values together: h11's and nginx's order of magnitude for a whole head
REQUEST_ID_CHARS: Final = 128  # four times a UUID's text
TARGET_CHARS: Final = 2048  # path and query; every inference endpoint is below 40
MESSAGE_BYTES: Final = 4 * KIB  # why a prompt was refused or failed, in words; vLLM's longest is about 1 KiB
CODE_CHARS: Final = 64  # `type`, `code` and `param` of the OpenAI error envelope
SESSION_CHARS: Final = 256  # an opaque stickiness token
OBJECTIVE_CHARS: Final = 128  # a weighted mix as `latency:0.5,cost:0.5`
ATTEMPT_MAX: Final = 16  # how often one prompt is tried anywhere; retries beyond that are a loop
TIME_LEFT_MAX_US: Final = DAY_US  # no client waits longer for one answer
SLO_MAX_MS: Final = 24 * 3600 * 1000  # likewise
RETRY_AFTER_MAX_S: Final = 24 * 3600  # "come back later" beyond a day is a no
LOAD_ITEMS: Final = 32  # figures of the `load` that rides on answers

# -- greeting a peer

HELLO_BYTES: Final = 4 * KIB  # read before anything is known of the sender; a real one is about 400 bytes
PROTOCOLS: Final = 32  # names in a list of spoken versions; five are in use
VERSIONS: Final = 8  # of one protocol spoken at once: releases overlap by one or two
VERSION_MAX: Final = 255  # as the version of a record, which is listed beside them
FEATURES: Final = 32  # announced by one node; those that everybody has become a version
FEATURE_CHARS: Final = 64  # a name, not a description
SOFTWARE_CHARS: Final = 64  # `metainf/0.1.0`, and room for a fork's name

# -- adverts

ADVERT_BYTES: Final = 8 * KIB  # one body: four times a full real one. A book of 2,048 of them takes 16 MiB
# Values in it: a full real one has 100. Of the costliest sort, empty maps, it takes 34 KiB in memory, a book 70 MiB.
ADVERT_VALUES: Final = 512
ADDRESSES: Final = 16  # a machine with two networks of both families, a name, and relays has eight
ADDRESS_BYTES: Final = 256  # a relayed address with the longest host name libp2p's own tools produce is below 200
CIRCUITS: Final = 8  # relays that vouch for one node at a time; two are enough
MODELS: Final = 16  # one engine serves one model and a few adapters
MODALITIES: Final = 8  # text, image, audio, video and what may come
ACCELERATORS: Final = 16  # kinds of device in one machine; eight equal ones are one entry
DEVICES: Final = 1024  # devices of one kind in one machine
ROLES: Final = 16  # serve, ask, relay, bootstrap are in use
WORD_CHARS: Final = 64  # a role, a modality, an engine's name, its version
NODE_NAME_BYTES: Final = 64  # what an operator calls the node
CONTEXT_MAX: Final = 2**31 - 1  # tokens of prompt and output together; the longest models have ten million
ADVERT_INTERVAL_US: Final = 60 * SECOND_US  # a living node says so again; less would be heartbeat traffic
ADVERT_INTERVAL_MAX_US: Final = 3600 * SECOND_US  # in the largest swarms; beyond it the lease would mean nothing
# Adverts that a node is ready to hear in a second, swarm-wide: a quarter of the 20 messages, of 3 to 6 ms of
# processor time each, that gossip may cost.
ADVERTS_PER_SECOND: Final = 5
ADVERT_LEASES: Final = 3  # intervals that a lease spans: two adverts in a row may be lost
ADVERT_LIFETIME_US: Final = ADVERT_LEASES * ADVERT_INTERVAL_MAX_US
ADVERT_GAP_US: Final = 5 * SECOND_US  # between two adverts of one author that are passed on, in the long run
ADVERT_BURST: Final = 4  # of them that may come together: up, changed, leaving, and up again

# -- load

LOAD_BYTES: Final = 4 * KIB  # one message: 32 figures of the longest names fit
LOAD_FRESH_US: Final = 2 * SECOND_US  # older than that a candidate is asked: a short answer lasts about as long

# -- reach

REACH_BYTES: Final = 512  # one message: an address and a handful of ports
REACH_PORTS: Final = 4  # dialled for one question: a node listens at one, its router may pass on another
REACH_HOST_CHARS: Final = 45  # the longest spelling of an IPv6 address

# -- gossip and the table of heads

# One gossip message. The whole RPC may have 1 MiB, and may carry several messages and their signatures.
GOSSIP_BYTES: Final = 512 * KIB
BATCH_RECORDS: Final = 64  # of a gossip message: 64 ordinary ones are 128 KiB and 20 ms of verifying
DHT_KEY_CHARS: Final = 192  # the longest, of a batch in a swarm of the longest name, has 165
DHT_LIFETIME_US: Final = 2 * DAY_US  # heads and batches: the table forgets after one day, so authors say them anew
COUNT_MAX: Final = EXACT_INT_MAX  # records that an author says to keep

# -- performance records

PERFORMANCE_BYTES: Final = 8 * KIB  # one body: twice one in which every field of this version is set
PERFORMANCE_VALUES: Final = 512  # values in it: one in which every field is set has 300
PPM: Final = 1_000_000  # a share is parts per million: the whole of it
DURATION_MAX_US: Final = 31 * DAY_US  # of any time that is told: nothing that is measured lasts longer
# What a value in thousandths or millionths of its unit may be: it survives the way to a double in that unit and back
# exactly, with a factor of two to spare.
SCALED_MAX: Final = 2**50 - 1
PAIR_BYTES: Final = 16  # names runs that were measured side by side: as random as a UUID
EXTRAS: Final = 16  # entries of a strategy's `engine_extra`: a handful is in use
PARALLEL_MAX: Final = 4096  # devices that one engine spans; the largest deployments have hundreds

# -- the exchange of histories, and what of a history is retained

HISTORY_BUCKETS: Final = 256  # 100,000 authors are 400 a bucket: one that differs is listed in two pages
HISTORY_RANGES: Final = 1024  # of one author and epoch: as many as its records may be, so that none can hide
HISTORY_HOLDINGS: Final = 256  # authors and epochs in one listing: 40 KiB of ordinary ones
HISTORY_WANTS: Final = 64  # authors and epochs asked of in one fetch
HISTORY_WANT_RANGES: Final = 64  # of each: what has more holes is asked for in turns
HISTORY_RECORDS: Final = 256  # in one page: 0.1 s of verifying, and so seldom more turns than that in a second
HISTORY_PAGE_BYTES: Final = 512 * KIB  # of records in one page: half a frame; ordinary ones are 256 KiB
HISTORY_ASK_BYTES: Final = 128 * KIB  # one question: 64 wants of 64 ranges are 77 KiB
HISTORY_VALUES: Final = 16 * KIB  # in one message: a listing of 256 has 2,400 and the bounds of its ranges
HISTORY_WAIT_MAX_MS: Final = 600_000  # "come back later" beyond ten minutes is a no
# What every node retains must be the same everywhere, so these are part of the wire. An author measures some hundreds
# of cells; what is newest in each comes first (node/core/retention.py). All of it is 256 MiB of ordinary records.
AUTHOR_RECORDS: Final = 1024
RETAINED_RECORDS: Final = 256 * KIB

# -- private swarms

SWARM_KEY_BYTES: Final = 32  # what Noise takes for a pre-shared key
MEMBER_ROLES: Final = 8  # serve, ask, relay, observe are in use
INVITATION_BYTES: Final = 640  # sealed: with the longest name of a swarm and every role some 450
CERTIFICATE_BYTES: Final = KIB  # sealed: its own signature and an invitation's, and what they are of; some 800
# Revoked at a time: as many as one record has room for. A swarm that parts from more is better founded anew.
REVOKED: Final = 256
TOKEN_ADDRESSES: Final = 8  # of nodes to join through: one that answers is enough
TOKEN_BYTES: Final = 4 * KIB  # a token before it is spelt: key, signatures, and the addresses above

# -- errors

ERROR_DETAIL_CHARS: Final = 200  # of what a peer sent, in one line of log


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """What `wire.decode` lets in, checked before anything is built.

    Attributes:
        size: bytes of the whole encoding.
        depth: containers around the innermost value: 0 allows only scalars.
        values: values in all, keys and containers included.
        items: entries of one array or map.
        text, blob: bytes of one text, of one byte string. Below 32 bytes they are not counted for texts:
            such a text costs less than the check.
    """

    size: int
    depth: int = NESTING
    values: int = VALUES
    items: int = ITEMS
    text: int = TEXT_BYTES
    blob: int = BLOB_BYTES


MESSAGE: Final = Bounds(size=FRAME_BYTES)
RECORD: Final = Bounds(size=RECORD_BYTES, blob=RECORD_BYTES)
# A greeting is read before it is known whom from: little depth, few values.
HELLO: Final = Bounds(size=HELLO_BYTES, depth=4, values=512, items=64, text=KIB, blob=KIB)
LOAD: Final = Bounds(size=LOAD_BYTES, depth=4, values=128, items=64, text=KIB, blob=KIB)
REACH: Final = Bounds(size=REACH_BYTES, depth=4, values=64, items=16, text=KIB, blob=KIB)
GOSSIP: Final = Bounds(size=GOSSIP_BYTES, depth=3, values=256, items=BATCH_RECORDS, blob=RECORD_BYTES)
HISTORY: Final = Bounds(
    size=FRAME_BYTES, depth=6, values=HISTORY_VALUES, items=2 * HISTORY_RANGES, text=KIB, blob=RECORD_BYTES
)
