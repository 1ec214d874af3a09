#!/bin/sh
# Runs a node as a task of Nomad, and has Atoll drain it when Nomad drains its client.
#
# Wants in its environment what deploy/nomad/node.nomad.hcl sets. Nomad tells a task only that it
# must stop; whether the client is being drained is asked of Nomad's API. A task that is stopped for
# another reason, a new version above all, stops at once: its sandboxes go on.
set -u

mark="$ATOLL_DATA_DIR/drained-by-nomad"

client_is_draining() {
    curl --silent --fail --max-time 5 --unix-socket "$NOMAD_SECRETS_DIR/api.sock" \
        --header "Authorization: Bearer ${NOMAD_TOKEN:-}" \
        "http://localhost/v1/node/$NOMAD_NODE" |
        grep -q '"SchedulingEligibility": *"ineligible"'
}

stop() {
    trap '' TERM INT
    if client_is_draining; then
        # Before the drain: whoever starts next must know whose it was.
        : >"$mark"
        # The flags are words of the job's author.
        # shellcheck disable=SC2086
        atoll nodes drain "$ATOLL_NODE_NAME" ${ATOLL_DRAIN_FLAGS:-} \
            --wait-s "${ATOLL_DRAIN_WAIT_S:-3500}" ||
            echo "the node is not empty: what is left goes on without it" >&2
    fi
    kill -TERM "$node" 2>/dev/null
}

# A drain that is over is taken back; one that an operator asked for stays.
undrain() {
    until atoll nodes undrain "$ATOLL_NODE_NAME"; do
        sleep 2
    done
    rm -f "$mark"
}

mkdir -p "$ATOLL_DATA_DIR"
trap stop TERM INT
atoll node &
node=$!
[ -e "$mark" ] && undrain &

# A signal ends the first wait; the node's own end is waited for.
wait "$node"
code=$?
while kill -0 "$node" 2>/dev/null; do
    wait "$node"
    code=$?
done
exit "$code"
