# The server of a fleet: API, control plane, store (SQLite in a host volume) and edge.
#
# The clients that may run it have a host volume `atoll-server` and the join token in
# /etc/atoll/join-token, as root's.

variable "version" {
  type        = string
  default     = "0.1.0"
  description = "Changes with every release: the job is then started anew."
}

job "atoll-server" {
  type = "service"

  group "server" {
    # One: its store is a file. The volume ties it to the client that has it.
    count = 1

    volume "data" {
      type   = "host"
      source = "atoll-server"
    }

    network {
      mode = "host"

      port "api" {
        static = 3000
      }
    }

    # Out of the load balancer first, then stopped: nobody is refused meanwhile.
    shutdown_delay = "5s"

    restart {
      attempts = 10
      interval = "10m"
      delay    = "1s"
      mode     = "delay"
    }

    update {
      max_parallel     = 1
      health_check     = "checks"
      min_healthy_time = "5s"
      healthy_deadline = "2m"
      auto_revert      = true
    }

    task "server" {
      driver = "exec"
      user   = "nobody"

      volume_mount {
        volume      = "data"
        destination = "/data"
      }

      config {
        command = "/usr/local/bin/atoll"
        args = [
          "server",
          "--listen", "0.0.0.0:${NOMAD_PORT_api}",
          "--advertise", "${NOMAD_ADDR_api}",
          "--data-dir", "/data",
          "--join-token-file", "${NOMAD_SECRETS_DIR}/join-token",
          "--consul-addr", "http://127.0.0.1:8500",
        ]
      }

      template {
        data        = "{{ with nomadVar \"nomad/jobs/atoll-server\" }}{{ .join_token }}{{ end }}"
        destination = "secrets/join-token"
        perms       = "0400"
        uid         = 65534
        change_mode = "restart"
      }

      env {
        ATOLL_VERSION = var.version
      }

      # Requests under way and the last writes take seconds. Sandboxes are on nodes, and go on.
      kill_signal  = "SIGTERM"
      kill_timeout = "60s"

      service {
        name     = "atoll-api"
        port     = "api"
        provider = "consul"

        check {
          type     = "http"
          path     = "/health"
          interval = "5s"
          timeout  = "2s"
        }
      }

      resources {
        cpu    = 2000
        memory = 1024
      }
    }
  }
}
