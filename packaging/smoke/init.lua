local kumo = require 'kumo'
local shaping = require 'policy-extras.shaping'

local shaper = shaping:setup_with_automation {
  publish = {},
  subscribe = {},
  extra_files = {
    '/opt/kumomta/etc/policy/shaping.toml',
    '/opt/kumomta/etc/tsa-sidecar/shaping.toml',
  },
}

kumo.on('init', function()
  shaper.setup_publish()
  kumo.configure_local_logs { log_dir = '/var/log/kumomta', max_segment_duration = '1s' }
end)
