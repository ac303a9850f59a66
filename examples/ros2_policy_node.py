"""A ROS 2 node that acts: it subscribes to observations and publishes a policy's actions.

In an environment with ROS 2 and this package:

    python ros2_policy_node.py --ros-args -p policy:=policy.onnx -p stop:="[0.0]"

`policy` is a file of `jaxrl-prefs export`. Observations and actions are Float32MultiArray, in the
units and the order of the data that the policy was trained on. If no observation arrives for
`patience` seconds, or one that the policy refuses, the node publishes `stop`: an action that is
safe on your robot. You must give it, as there is none that is safe on every robot.
"""

from __future__ import annotations

import rclpy
from rclpy.node import Node
from std_msgs.msg import Float32MultiArray

import jaxrl_prefs as jp


class PolicyNode(Node):
    """Answers every observation with one action."""

    def __init__(self) -> None:
        super().__init__("policy")
        self.declare_parameter("policy", "policy.onnx")
        self.declare_parameter("stop", rclpy.Parameter.Type.DOUBLE_ARRAY)
        self.declare_parameter("patience", 0.2)
        self.policy = jp.load_policy(self.get_parameter("policy").value)
        if self.policy.images:
            raise SystemExit("this node passes vectors on, and the policy sees images")
        if self.policy.actions_per_call > 1:
            raise SystemExit("this node asks at every step: export a policy trained with replan=1")
        self.stop = list(self.get_parameter("stop").value)
        self.draw = 0
        self.actions = self.create_publisher(Float32MultiArray, "action", 1)
        self.create_subscription(Float32MultiArray, "observation", self.act, 1)
        self.timer = self.create_timer(self.get_parameter("patience").value, self.halt)
        self.policy([0.0] * self.policy.observation_dim)  # compiles before the robot moves

    def act(self, message: Float32MultiArray) -> None:
        """Publishes the action for an observation; `stop` for one that the policy refuses."""
        self.timer.reset()
        try:
            action = self.policy(message.data, self.draw)
        except ValueError as error:
            self.get_logger().error(str(error))
            self.halt()
            return
        self.draw = (self.draw + 1) % 2**32
        self.actions.publish(Float32MultiArray(data=action.tolist()))

    def halt(self) -> None:
        """Publishes the action that is safe."""
        self.actions.publish(Float32MultiArray(data=self.stop))


def main() -> None:
    """Runs the node until it is interrupted."""
    rclpy.init()
    try:
        rclpy.spin(PolicyNode())
    except KeyboardInterrupt:
        pass
    finally:
        rclpy.try_shutdown()


if __name__ == "__main__":
    main()
