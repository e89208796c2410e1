#!/bin/sh
# Make the keys that the containers know each other by, once; to change them, remove the volumes.
#
#   /keys/triton/admin-key   who sends it may load and unload Triton's models
#   /keys/ledger/users.acl   Redis's accounts, with a digest of the password
#   /keys/ledger/url         the ledger's address with that password
set -eu
umask 077

secret() { head -c 24 /dev/urandom | base64 | tr '+/' '-_'; }

[ -s /keys/triton/admin-key ] || secret >/keys/triton/admin-key

if [ ! -s /keys/ledger/url ]; then
  password=$(secret)
  digest=$(printf %s "$password" | sha256sum | cut -d ' ' -f 1)
  # The least that the ledger needs (docs/model-boss.md), and `status`; without client|setinfo, which
  # Redis before 7.2 does not know, and whose refusal redis-py does not mind.
  cat >/keys/ledger/users.acl <<ACL
user default off
user aesthetic on #$digest ~model-boss:* -@all +evalsha +script|load +type +unlink +hget +hmget +hgetall +hlen +hset +hdel +hincrby +zadd +zrem +zrank +zrange +zcard +xadd +time +info +client|setname +hello +ping +scan
ACL
  echo "redis://aesthetic:$password@redis:6379" >/keys/ledger/url
fi
