-- For kumod's init.lua: the overlay, suspensions and bounces as files, which Lua in kumod reads.
-- `tsa-sidecar init --road lua` prints it with this machine's paths.

local kumo = require 'kumo'
local shaping = require 'policy-extras.shaping'
package.path = '/usr/share/tsa-sidecar/lua/?.lua;' .. package.path
local tsa_sidecar = require 'tsa_sidecar'

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

  -- Suspensions and bounces from the files beside the overlay.
  tsa_sidecar.watch { directory = '/opt/kumomta/etc/tsa-sidecar', overlay = 'shaping.toml' }

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
