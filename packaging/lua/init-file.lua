-- For kumod's init.lua: the overlay as a file, suspensions and bounces through kumod's admin API
-- (TSA_SIDECAR_KUMOD_API=http://127.0.0.1:8000 in /etc/default/tsa-sidecar).
-- `tsa-sidecar init --road file` prints it with this machine's paths.

local kumo = require 'kumo'
local shaping = require 'policy-extras.shaping'

local shaper = shaping:setup_with_automation {
  -- The sidecar reads the log files: no log hook.
  publish = {},
  subscribe = {},
  extra_files = {
    '/opt/kumomta/etc/policy/shaping.toml',
    '/opt/kumomta/etc/tsa-sidecar/shaping.toml',
  },
}

kumo.on('init', function()
  -- Needed although nothing is published: it starts the tasks that notice changes.
  shaper.setup_publish()

  -- The log that you keep stays as it is, for instance:
  kumo.configure_local_logs { log_dir = '/var/log/kumomta' }

  -- One more for the sidecar: what the rules are about, handed over every second.
  kumo.configure_local_logs {
    log_dir = '/var/log/kumomta/fast',
    max_segment_duration = '1s',
    per_record = {
      AdminBounce = { enable = true },
      Bounce = { enable = true },
      Expiration = { enable = true },
      Feedback = { enable = true },
      OOB = { enable = true },
      TransientFailure = { enable = true },
      -- Rules with sidecar.ratio have to know what is delivered. This writes it short:
      -- Delivery = { template = [[{"type":"Delivery","recipient":{{ recipient | tojson }},"queue":{{ queue | tojson }},"site":{{ site | tojson }},"egress_source":{{ egress_source | tojson }},"response":{"code":{{ response.code }},"content":""},"timestamp":{{ timestamp }},"event_time":{{ event_time | tojson }}}]] },
      -- If a rule matches what a delivery's response says: Delivery = { enable = true },
      Any = { enable = false },
    },
  }
end)

kumo.on('get_egress_path_config', shaper.get_egress_path_config)
