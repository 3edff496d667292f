#!/bin/sh
# Make deploy/secrets/ for compose.yaml: passwords, the users of Redis and one API key. What is there stays.
set -eu
cd "$(dirname "$0")"
test -e secrets && { echo "deploy/secrets is there already; remove it to make new ones" >&2; exit 1; }
# The containers' users read what is in it, nobody else enters it.
umask 022
mkdir -m 700 secrets
word() { head -c 24 /dev/urandom | od -An -tx1 | tr -d ' \n'; }
hash() { printf %s "$1" | sha256sum | cut -d' ' -f1; }
sed_acl=""
for user in $(grep -o '[A-Z]*_SHA256' redis/users.acl | sed 's/_SHA256//'); do
  password=$(word)
  sed_acl="$sed_acl;s/${user}_SHA256/$(hash "$password")/"
  name=$(echo "$user" | tr '[:upper:]' '[:lower:]')
  test "$name" = admin && user_name=admin || user_name=moodq-$name
  echo "redis_url = \"redis://$user_name:$password@valkey:6379/0\"" > "secrets/$name.toml"
done
sed -e "${sed_acl#;}" redis/users.acl > secrets/users.acl
key=mq_$(word)
echo "local=$(hash "$key")" > secrets/gateway_keys
word > secrets/grafana_password
echo "deploy/secrets made. The gateway's key, told once: $key"
echo "Grafana's password (user admin) is in deploy/secrets/grafana_password."
