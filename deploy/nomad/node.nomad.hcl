# A node on every client of the pool: this machine's sandboxes.
#
# It makes namespaces, cgroups and mounts as root, so it is a raw_exec task: the clients of the pool
# have `plugin "raw_exec" { config { enabled = true } }`, and `max_kill_timeout = "2h"`, or Nomad
# cuts the time that a drain has.
#
# Drain of a client: node.sh asks Nomad whether the client is being drained when the task is told to
# stop; then it has Atoll drain the node first, and waits. A new version is no drain: the task is
# stopped and started, and the sandboxes go on (`no_cgroups` leaves them to themselves).

variable "version" {
  type        = string
  default     = "0.1.0"
  description = "Changes with every release: the tasks are then started anew, one by one."
}

variable "server" {
  type        = string
  default     = "http://atoll-api.service.consul:3000"
  description = "Where the operators' part of the API is, for drains."
}

variable "drain" {
  type        = string
  default     = ""
  description = "Flags of `atoll nodes drain`: nothing waits for sandboxes, --evict ends them."
}

job "atoll-node" {
  type      = "system"
  node_pool = "default"

  update {
    max_parallel     = 1
    min_healthy_time = "10s"
    healthy_deadline = "5m"
  }

  group "node" {
    network {
      mode = "host"

      port "orders" {
        static = 3001
      }
    }

    restart {
      attempts = 10
      interval = "10m"
      delay    = "1s"
      mode     = "delay"
    }

    task "node" {
      driver = "raw_exec"
      user   = "root"

      config {
        command    = "/bin/sh"
        args       = ["local/node.sh"]
        no_cgroups = true
      }

      # Shows the task to Nomad's own API, of which it reads how this client stands.
      identity {
        env = true
      }

      template {
        data        = file("./node.sh")
        destination = "local/node.sh"
        change_mode = "noop"
      }

      template {
        data        = "{{ with nomadVar \"nomad/jobs/atoll-node\" }}{{ .join_token }}{{ end }}"
        destination = "secrets/join-token"
        perms       = "0400"
        change_mode = "restart"
      }

      template {
        data        = "ATOLL_ADMIN_TOKEN={{ with nomadVar \"nomad/jobs/atoll-node\" }}{{ .admin_token }}{{ end }}"
        destination = "secrets/operator.env"
        env         = true
        change_mode = "noop"
      }

      env {
        ATOLL_VERSION         = var.version
        ATOLL_CONSUL_ADDR     = "http://127.0.0.1:8500"
        ATOLL_DATA_DIR        = "/var/lib/atoll-node"
        ATOLL_DRAIN_FLAGS     = var.drain
        ATOLL_DRAIN_WAIT_S    = "3500"
        ATOLL_JOIN_TOKEN_FILE = "${NOMAD_SECRETS_DIR}/join-token"
        ATOLL_NODE_LISTEN     = "${NOMAD_IP_orders}:${NOMAD_PORT_orders}"
        ATOLL_NODE_NAME       = "${attr.unique.hostname}"
        E2B_API_URL           = var.server
        NOMAD_NODE            = "${node.unique.id}"
      }

      # A drain may take so long; everything else takes seconds.
      kill_signal  = "SIGTERM"
      kill_timeout = "1h"

      resources {
        cpu    = 500
        memory = 512
      }
    }
  }
}
