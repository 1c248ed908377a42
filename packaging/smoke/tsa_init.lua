local kumo = require 'kumo'

kumo.on('tsa_load_shaping_data', function()
  return kumo.shaping.load { '/opt/kumomta/etc/policy/shaping.toml' }
end)
