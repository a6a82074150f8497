"""An HTML page in which ego poses are placed by clicking: head first, then what is looked at, for a few key frames.

The page holds some exo frames and, for every fourth pixel, the 3-D point seen there. It works offline and saves a JSON
file that ``egoloom ego-prior --ego-poses`` reads.
"""

import base64
import json
from pathlib import Path

import cv2
import numpy as np
from torch import Tensor

from egoloom.cameras import Camera, transform_points
from egoloom.clips.files import write_text
from egoloom.exo2ego.prior.background import clean_depth

POINT_STEP = 4
NUM_KEYFRAMES = 9

PAGE = """<!doctype html><meta charset="utf-8"><title>EgoLoom ego poses</title>
<style>body{font:15px system-ui;margin:1em;background:#1c1c20;color:#eee}canvas{border:1px solid #555;cursor:crosshair}
button,input{font:inherit;margin-right:.6em}</style>
<h3>Ego poses by clicking</h3>
<p>In each key frame click the wearer's <b>eyes</b>, then the point the wearer <b>looks at</b>. Frames without clicks
are interpolated. Then save and pass the file to <code>egoloom ego-prior --ego-poses</code>.</p>
<p><input type="range" id="at" min="0" value="0"><span id="label"></span></p><canvas id="view"></canvas>
<p><button id="clear">clear this frame</button><button id="save">save ego_poses.json</button><span id="said"></span></p>
<script>
const data = __DATA__;
const view = document.getElementById("view"), at = document.getElementById("at"), pen = view.getContext("2d");
at.max = data.frames.length - 1;
const clicks = data.frames.map(() => []);
const images = data.frames.map(f => { const i = new Image(); i.src = f.image; i.onload = draw; return i; });
const clouds = data.frames.map(f => new Float32Array(Uint8Array.from(atob(f.points), c => c.charCodeAt(0)).buffer));
const sub = (a, b) => a.map((v, i) => v - b[i]);
const cross = (a, b) => [a[1]*b[2]-a[2]*b[1], a[2]*b[0]-a[0]*b[2], a[0]*b[1]-a[1]*b[0]];
const unit = a => { const n = Math.hypot(...a) || 1; return a.map(v => v / n); };
function pointAt(frame, x, y) {
  const c = Math.min(data.columns - 1, Math.floor(x / data.step)), r = Math.min(data.rows - 1, Math.floor(y /
  data.step)); const o = 3 * (r * data.columns + c), p = [...clouds[frame].slice(o, o + 3)];
  return p.some(Number.isNaN) ? null : p;
}
function pose(eye, target) {
  const z = unit(sub(target, eye)), x = unit(cross(z, data.up)), y = cross(z, x);
  return [[x[0],y[0],z[0],eye[0]],[x[1],y[1],z[1],eye[1]],[x[2],y[2],z[2],eye[2]],[0,0,0,1]];
}
function draw() {
  const k = +at.value, image = images[k];
  view.width = data.width; view.height = data.height; pen.drawImage(image, 0, 0);
  document.getElementById("label").textContent = " " + data.frames[k].time_s.toFixed(2) + " s, clicks: " +
  clicks[k].length; clicks[k].forEach((c, i) => { pen.fillStyle = i ? "#ffb000" : "#00e5ff"; pen.beginPath();
  pen.arc(c.x, c.y, 5, 0, 7); pen.fill(); });
}
view.onclick = e => {
  const k = +at.value, box = view.getBoundingClientRect(), x = e.clientX - box.left, y = e.clientY - box.top;
  const point = pointAt(k, x, y);
  if (!point) { document.getElementById("said").textContent = "no depth here"; return; }
  if (clicks[k].length > 1) clicks[k] = [];
  clicks[k].push({x, y, point}); draw();
};
at.oninput = draw;
document.getElementById("clear").onclick = () => { clicks[+at.value] = []; draw(); };
document.getElementById("save").onclick = () => {
  const out = {times_s: [], T_world_camera: [], depth_scale: data.depth_scale};
  clicks.forEach((c, k) => { if (c.length == 2) {
    out.times_s.push(data.frames[k].time_s); out.T_world_camera.push(pose(c[0].point, c[1].point)); } });
  if (!out.times_s.length) { document.getElementById("said").textContent = "click eyes and target first"; return; }
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([JSON.stringify(out)], {type: "application/json"}));
  link.download = "ego_poses.json"; link.click();
};
</script>
"""


def write_pose_editor(
    path: Path,
    exo_frames_TCHW: np.ndarray,
    depth_THW: np.ndarray,
    exo_camera: Camera,
    T_world_exo: Tensor,
    fps: float,
    up_world: tuple[float, float, float],
    *,
    depth_scale: float = 1.0,
) -> None:
    """Writes the page.

    Args:
        path: Target ``.html`` file.
        exo_frames_TCHW: uint8 RGB.
        depth_THW: z-depth of the frames.
        exo_camera: Their camera.
        T_world_exo: Its pose ``[4, 4]``, or ``[T, 4, 4]`` for a moving camera.
        fps: Frames a second.
        up_world: Direction against gravity.
        depth_scale: Factor on depth; saved with the poses, which are right in this depth only.
    """
    chosen = np.unique(np.linspace(0, len(exo_frames_TCHW) - 1, NUM_KEYFRAMES).round().astype(int))
    depth = clean_depth(depth_THW) * depth_scale
    half = POINT_STEP // 2
    rays = exo_camera.rays(unit=False)[0][half::POINT_STEP, half::POINT_STEP].numpy()
    rows, columns = rays.shape[:2]
    frames = []
    for index in chosen:
        z = depth[index][half::POINT_STEP, half::POINT_STEP]
        local = np.where(z[..., None] > 0, rays * z[..., None], np.nan)
        pose = T_world_exo if T_world_exo.ndim == 2 else T_world_exo[index]
        world = transform_points(pose, pose.new_tensor(local.reshape(-1, 3))).float().numpy()
        bgr = np.ascontiguousarray(exo_frames_TCHW[index].transpose(1, 2, 0)[..., ::-1])
        jpeg = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, 85])[1].tobytes()
        frames.append(
            {
                "time_s": float(index / fps),
                "image": "data:image/jpeg;base64," + base64.b64encode(jpeg).decode(),
                "points": base64.b64encode(world.astype("<f4").tobytes()).decode(),
            }
        )
    height, width = exo_frames_TCHW.shape[2:]
    data = {
        "frames": frames, "rows": rows, "columns": columns, "step": POINT_STEP, "width": width, "height": height,
        "up": list(up_world), "depth_scale": depth_scale,
    }  # fmt: skip
    write_text(path, PAGE.replace("__DATA__", json.dumps(data)))
